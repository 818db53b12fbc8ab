//! A stream: many replies under one key. They wait for their reader in a bounded queue.
//!
//! The thread that reads the connection never waits for a slow reader: a reader that does not keep up loses its
//! stream. This module knows no connection. A closure defines what happens when the reader stops.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::reply::ReplyFrame;

/// The limits of the replies of one stream that wait for its reader: their number and their bytes.
const STREAM_QUEUE_REPLIES: usize = 4096;
const STREAM_QUEUE_BYTES: usize = 1024 * 1024;

/// The writing end of a stream. Dropping it ends the stream for its reader.
#[derive(Debug)]
pub struct StreamQueue {
    replies: Sender<ReplyFrame>,
    backlog: Arc<StreamBacklog>,
}

/// The replies that wait for the reader of a stream.
#[derive(Debug, Default)]
struct StreamBacklog {
    bytes: AtomicUsize,
    is_lagging: AtomicBool,
}

/// The reading end of a stream of replies. Dropping it ends the stream at its source.
pub struct ReplyStream {
    address: Arc<str>,
    replies: Receiver<ReplyFrame>,
    backlog: Arc<StreamBacklog>,
    is_finished: bool,
    on_drop: Option<Box<dyn FnOnce() + Send>>,
}

/// Why a stream has no further reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamEnd {
    /// The reader has received the last reply.
    Finished,
    /// The connection ended.
    LinkLost,
    /// Too many replies were waiting: the reader is too slow.
    Lagging,
}

/// Creates both ends of a stream from the instance at `address`.
#[must_use]
pub fn open_queue(address: Arc<str>) -> (StreamQueue, ReplyStream) {
    let (sender, replies) = bounded(STREAM_QUEUE_REPLIES);
    let backlog = Arc::new(StreamBacklog::default());
    let queue = StreamQueue { replies: sender, backlog: backlog.clone() };
    (queue, ReplyStream { address, replies, backlog, is_finished: false, on_drop: None })
}

impl StreamQueue {
    /// Queues a reply for the reader. False if the queue is full.
    #[must_use]
    pub fn push(&self, reply: ReplyFrame) -> bool {
        let size = reply.json.len();
        let waiting = self.backlog.bytes.fetch_add(size, Ordering::Relaxed);
        let pushed = waiting + size <= STREAM_QUEUE_BYTES && self.replies.try_send(reply).is_ok();
        if !pushed {
            self.backlog.is_lagging.store(true, Ordering::SeqCst);
        }
        pushed
    }
}

impl ReplyStream {
    /// Sets the `work` that runs when this end is dropped. It ends the stream at its source.
    pub(super) fn set_on_drop(&mut self, work: impl FnOnce() + Send + 'static) {
        self.on_drop = Some(Box::new(work));
    }

    /// The instance that sends the stream, as `host:port`.
    #[must_use]
    pub fn address(&self) -> &Arc<str> {
        &self.address
    }

    /// Waits for the next reply. `None` if no reply came before `deadline`.
    ///
    /// # Errors
    /// The reason why no reply will come.
    pub fn next(&mut self, deadline: Instant) -> Result<Option<ReplyFrame>, StreamEnd> {
        match self.replies.recv_deadline(deadline) {
            Ok(reply) => {
                self.backlog.bytes.fetch_sub(reply.json.len(), Ordering::Relaxed);
                self.is_finished = !reply.more;
                Ok(Some(reply))
            }
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) if self.is_finished => Err(StreamEnd::Finished),
            Err(RecvTimeoutError::Disconnected) if self.backlog.is_lagging.load(Ordering::SeqCst) => {
                Err(StreamEnd::Lagging)
            }
            Err(RecvTimeoutError::Disconnected) => Err(StreamEnd::LinkLost),
        }
    }

    /// True if a reply is in the queue.
    #[must_use]
    pub fn has_next(&self) -> bool {
        !self.replies.is_empty()
    }
}

impl Drop for ReplyStream {
    fn drop(&mut self) {
        if let Some(work) = self.on_drop.take() {
            work();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(fields: &str) -> ReplyFrame {
        ReplyFrame::parse(&format!("{{{fields}}}")).unwrap()
    }

    #[test]
    fn a_stream_is_read_in_order_and_ends_with_the_reply_that_has_no_more() {
        let (queue, mut stream) = open_queue("127.0.0.1:9".into());
        assert!(queue.push(reply(r#""seq":1,"more":true"#)) && queue.push(reply(r#""seq":2"#)));
        drop(queue);
        assert_eq!(stream.next(Instant::now()).unwrap().unwrap().seq, Some(1));
        assert!(stream.has_next());
        assert_eq!(stream.next(Instant::now()).unwrap().unwrap().seq, Some(2));
        assert_eq!(stream.next(Instant::now()), Err(StreamEnd::Finished));
    }

    #[test]
    fn a_stream_whose_connection_ends_before_its_last_reply_is_lost() {
        let (queue, mut stream) = open_queue("127.0.0.1:9".into());
        assert_eq!(stream.next(Instant::now()), Ok(None));
        drop(queue);
        assert_eq!(stream.next(Instant::now()), Err(StreamEnd::LinkLost));
    }

    #[test]
    fn a_reader_with_more_than_a_mebibyte_waiting_loses_its_stream() {
        let (queue, mut stream) = open_queue("127.0.0.1:9".into());
        let long = reply(&format!(r#""results":"{}","more":true"#, "x".repeat(STREAM_QUEUE_BYTES / 2)));
        assert!(queue.push(long.clone()) && !queue.push(long));
        drop(queue);
        assert!(stream.next(Instant::now()).unwrap().is_some());
        assert_eq!(stream.next(Instant::now()), Err(StreamEnd::Lagging));
    }

    #[test]
    fn the_source_is_notified_when_the_reader_leaves() {
        let (_queue, mut stream) = open_queue("127.0.0.1:9".into());
        let (told, news) = bounded(1);
        stream.set_on_drop(move || told.send(()).unwrap());
        assert!(news.is_empty());
        drop(stream);
        assert_eq!(news.try_recv(), Ok(()));
    }
}
