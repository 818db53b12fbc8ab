//! Links to services of the Node.js course. Links to our own nodes need none of this.
//!
//! - A course service dies if one read of its socket returns more than 64 KiB. So a `SendWindow` limits the bytes
//!   that are sent and unanswered. A request that does not fit waits for its turn, in order, until its deadline.
//! - The service reads the key in one of two places. Its first reply shows the place; later requests use only that one.
//! - Its replies may have no key.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::outbox::{OUTBOX_LIMIT_BYTES, Others, Outbox, SendError};
use super::pending::NOBODY;
use super::reply::{Refusal, ReplyFrame};
use crate::packet::course::{KeyPlace, key_of_reply, top_number, write_request};
use crate::packet::masked::masked;
use crate::packet::{COURSE_MAX_BYTES, Head, Outgoing};
use crate::sync::lock;

/// The window and the key place of one connection to a course service.
#[derive(Debug)]
pub struct CourseConnection {
    address: Arc<str>,
    state: Mutex<CourseState>,
}

#[derive(Debug, Default)]
struct CourseState {
    window: SendWindow,
    /// The place where the service reads the key. Unknown until its first reply.
    key_place: Option<KeyPlace>,
}

impl CourseConnection {
    /// A new connection to the service at `address`.
    #[must_use]
    pub fn new(address: Arc<str>) -> Self {
        Self { address, state: Mutex::default() }
    }

    /// Sends a request when its turn comes: at once if the window has room.
    ///
    /// # Errors
    /// The request was not sent and will not be.
    pub fn send(
        &self,
        outbox: &Outbox,
        request: &Outgoing<'_>,
        key: u64,
        deadline: Instant,
        max_frame_bytes: usize,
    ) -> Result<(), Refusal> {
        let key_place = lock(&self.state).key_place;
        let mut frame = Vec::new();
        let written = write_request(&mut frame, request, key, key_place);
        let bytes = frame.len();
        if written.is_err() || bytes > max_frame_bytes {
            return Err(Refusal::TooLarge { bytes, limit: max_frame_bytes });
        }
        if bytes > COURSE_MAX_BYTES {
            return Err(Refusal::TooLargeForCourse { bytes });
        }
        log::debug!(
            "{} ← request {} {}, key {}, {bytes} bytes: {}",
            self.address,
            request.method,
            request.uri,
            top_number(key),
            masked(&frame)
        );
        if let Some(explanation) = request.explanation {
            let text = format!("the request gets key {}, as the course sends it", top_number(key));
            explanation.add_sent(file!(), &self.address, text, &frame);
        }
        let mut state = lock(&self.state);
        if state.window.is_stuck(bytes) {
            drop(state);
            log::info!("link {}: 64 KiB stay without a reply; closing, to dial again", self.address);
            outbox.close();
            return Err(Refusal::Down);
        }
        state.window.queue(key, frame, deadline)?;
        drop(state);
        self.send_ready(outbox);
        Ok(())
    }

    /// True if this request still waits for its turn.
    pub fn is_waiting(&self, key: u64) -> bool {
        lock(&self.state).window.is_waiting(key)
    }

    /// The caller of this request has stopped waiting. True if the request was never sent, and now never will be.
    pub fn give_up(&self, key: u64, outbox: &Outbox) -> bool {
        let was_waiting = lock(&self.state).window.give_up(key);
        if was_waiting {
            self.send_ready(outbox);
        }
        was_waiting
    }

    /// The reply, and the key that it belongs to. Course nodes have no streams, so their `more` means something else.
    /// A reply without a key belongs to the only unanswered request, if there is exactly one.
    pub fn read_reply(&self, frame: &str, head: &Head<'_>) -> (u64, ReplyFrame) {
        let mut reply = ReplyFrame::of(head, frame);
        reply.more = false;
        let key = match key_of_reply(head) {
            Some((key, place)) => {
                lock(&self.state).key_place.get_or_insert(place);
                key
            }
            None if head.has_key() => NOBODY,
            None => self.only_unanswered(),
        };
        (key, reply)
    }

    /// A `null` reply: the service has no handler for this method. Returns the key that it belongs to, and a failure.
    pub fn read_null(&self) -> (u64, ReplyFrame) {
        let reply = ReplyFrame::failure(501, "the service has no handler for this method");
        (self.only_unanswered(), reply)
    }

    /// Removes an answered request from the window, and sends the requests that now fit.
    pub fn answered(&self, key: u64, outbox: &Outbox) {
        lock(&self.state).window.answer(key);
        self.send_ready(outbox);
    }

    fn only_unanswered(&self) -> u64 {
        lock(&self.state).window.only_unanswered().unwrap_or(NOBODY)
    }

    /// Sends every frame whose turn has come. It marks them under the lock of the outbox, so that they leave in order.
    fn send_ready(&self, outbox: &Outbox) {
        let sent = outbox.send_with(Others::None, |queue| {
            let mut state = lock(&self.state);
            let now = Instant::now();
            while let Some(frame) = state.window.next_ready(now) {
                queue.extend_from_slice(frame);
                state.window.mark_sent(now);
            }
            Ok::<(), SendError>(())
        });
        if sent.is_err() {
            // The connection has ended, or the service does not read at all.
            outbox.close();
        }
    }
}

/// The sent and unanswered requests, at most [`COURSE_MAX_BYTES`], and the requests that wait for their turn.
///
/// A request still counts after its caller stops waiting, because the service may not have read it. It counts until the
/// service answers it or a later one. A notice gets no answer, so it takes no room after it is sent.
#[derive(Debug, Default)]
struct SendWindow {
    sent: VecDeque<SentRequest>,
    sent_bytes: usize,
    waiting: VecDeque<QueuedFrame>,
    waiting_bytes: usize,
}

#[derive(Debug)]
struct SentRequest {
    key: u64,
    bytes: usize,
    is_given_up: bool,
}

#[derive(Debug)]
struct QueuedFrame {
    key: u64,
    frame: Vec<u8>,
    deadline: Instant,
}

impl SendWindow {
    /// True if these bytes do not fit and no caller waits for a request in the window: no reply is expected.
    fn is_stuck(&self, bytes: usize) -> bool {
        self.sent_bytes + bytes > COURSE_MAX_BYTES && self.sent.iter().all(|sent| sent.is_given_up)
    }

    fn queue(&mut self, key: u64, frame: Vec<u8>, deadline: Instant) -> Result<(), Refusal> {
        if self.waiting_bytes + frame.len() > OUTBOX_LIMIT_BYTES {
            return Err(Refusal::Busy);
        }
        self.waiting_bytes += frame.len();
        self.waiting.push_back(QueuedFrame { key, frame, deadline });
        Ok(())
    }

    /// The next frame, if the window has room for it. A frame whose deadline has passed loses its turn.
    fn next_ready(&mut self, now: Instant) -> Option<&[u8]> {
        let first = self.first_in_time(now)?;
        let frame = &self.waiting[first].frame;
        (self.sent_bytes + frame.len() <= COURSE_MAX_BYTES).then_some(frame.as_slice())
    }

    /// Records that the frame from [`next_ready`](Self::next_ready) was sent.
    fn mark_sent(&mut self, now: Instant) {
        let first = self.first_in_time(now);
        let Some(QueuedFrame { key, frame, .. }) = first.and_then(|first| self.waiting.remove(first)) else {
            return;
        };
        let bytes = frame.len();
        self.waiting_bytes -= bytes;
        if key != NOBODY {
            self.sent_bytes += bytes;
            self.sent.push_back(SentRequest { key, bytes, is_given_up: false });
        }
    }

    /// Requests whose deadline has passed stay until their callers remove them. Notices have no caller.
    fn first_in_time(&mut self, now: Instant) -> Option<usize> {
        let waiting_bytes = &mut self.waiting_bytes;
        self.waiting.retain(|queued| {
            let stays = queued.key != NOBODY || queued.deadline > now;
            if !stays {
                *waiting_bytes -= queued.frame.len();
                log::info!("a notice of {} bytes waited too long and was not sent", queued.frame.len());
            }
            stays
        });
        self.waiting.iter().position(|queued| queued.deadline > now)
    }

    fn is_waiting(&self, key: u64) -> bool {
        self.waiting.iter().any(|queued| queued.key == key)
    }

    /// The caller stops waiting. True if the request was never sent.
    fn give_up(&mut self, key: u64) -> bool {
        if let Some(sent) = self.sent.iter_mut().find(|sent| sent.key == key) {
            sent.is_given_up = true;
            return false;
        }
        let Some(at) = self.waiting.iter().position(|queued| queued.key == key) else { return false };
        self.waiting_bytes -= self.waiting.remove(at).map_or(0, |queued| queued.frame.len());
        true
    }

    /// An answer shows that the service has read everything that was sent before that request.
    fn answer(&mut self, key: u64) {
        let Some(at) = self.sent.iter().position(|sent| sent.key == key) else { return };
        let mut position = 0;
        self.sent.retain(|sent| {
            let stays = position > at || (position < at && !sent.is_given_up);
            position += 1;
            stays
        });
        self.sent_bytes = self.sent.iter().map(|sent| sent.bytes).sum();
    }

    /// The key of the only unanswered request with a waiting caller.
    fn only_unanswered(&self) -> Option<u64> {
        let mut awaited = self.sent.iter().filter(|sent| !sent.is_given_up);
        awaited.next().filter(|_| awaited.next().is_none()).map(|sent| sent.key)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A window with queued requests of these sizes, under the keys 1, 2, 3, …, and the current time.
    fn window_of(sizes: &[usize]) -> (SendWindow, Instant) {
        let (mut window, now) = (SendWindow::default(), Instant::now());
        for (key, size) in (1..).zip(sizes) {
            window.queue(key, vec![b'x'; *size], now + Duration::from_secs(5)).unwrap();
        }
        (window, now)
    }

    /// Sends every frame whose turn has come. Returns the number of frames.
    fn send_ready(window: &mut SendWindow, now: Instant) -> usize {
        let mut count = 0;
        while window.next_ready(now).is_some() {
            window.mark_sent(now);
            count += 1;
        }
        let sent: usize = window.sent.iter().map(|sent| sent.bytes).sum();
        assert_eq!(window.sent_bytes, sent);
        assert!(sent <= COURSE_MAX_BYTES, "{sent}");
        let waiting: usize = window.waiting.iter().map(|queued| queued.frame.len()).sum();
        assert_eq!(window.waiting_bytes, waiting);
        count
    }

    const EIGHTH: usize = COURSE_MAX_BYTES / 8;

    #[test]
    fn no_more_than_64_kib_are_sent_and_unanswered_and_the_rest_follows_in_order() {
        let (mut window, now) = window_of(&[EIGHTH; 10]);
        assert_eq!(send_ready(&mut window, now), 8);
        assert!(window.is_waiting(9) && window.is_waiting(10) && !window.is_waiting(8));
        window.answer(3);
        assert_eq!(send_ready(&mut window, now), 1);
        assert!(window.is_waiting(10) && !window.is_waiting(9));
        window.answer(9);
        assert_eq!(send_ready(&mut window, now), 1);
    }

    #[test]
    fn a_long_request_is_not_overtaken_by_short_ones() {
        let (mut window, now) = window_of(&[1, COURSE_MAX_BYTES, 1]);
        assert_eq!(send_ready(&mut window, now), 1);
        assert!(window.is_waiting(2) && window.is_waiting(3));
        window.answer(1);
        assert_eq!(send_ready(&mut window, now), 1);
        window.answer(2);
        assert_eq!(send_ready(&mut window, now), 1);
    }

    #[test]
    fn a_request_whose_deadline_passes_before_its_turn_is_never_sent() {
        let (mut window, now) = window_of(&[COURSE_MAX_BYTES]);
        window.queue(2, vec![b'x'], now + Duration::from_secs(1)).unwrap();
        window.queue(3, vec![b'x'], now + Duration::from_secs(9)).unwrap();
        assert_eq!(send_ready(&mut window, now), 1);
        window.answer(1);
        assert_eq!(send_ready(&mut window, now + Duration::from_secs(1)), 1, "the one that is in time");
        assert!(window.give_up(2), "it was never sent");
        assert!(!window.give_up(3), "it was sent");
        assert_eq!(send_ready(&mut window, now), 0);
    }

    #[test]
    fn a_caller_that_leaves_the_queue_makes_room_for_those_behind_it() {
        let (mut window, now) = window_of(&[1, COURSE_MAX_BYTES, 1]);
        send_ready(&mut window, now);
        assert!(window.give_up(2));
        assert_eq!(send_ready(&mut window, now), 1);
    }

    #[test]
    fn an_abandoned_request_counts_until_a_later_one_is_answered() {
        let (mut window, now) = window_of(&[EIGHTH; 10]);
        send_ready(&mut window, now);
        (1..=4).for_each(|key| assert!(!window.give_up(key)));
        assert_eq!(send_ready(&mut window, now), 0, "the service may not have read them");
        window.answer(3);
        assert_eq!(send_ready(&mut window, now), 2, "it has read the first three, not the fourth");
        assert_eq!(window.sent.len(), 7);
        window.answer(10);
        assert_eq!(window.sent.len(), 5, "those that are still waited for");
    }

    #[test]
    fn a_window_full_of_abandoned_requests_is_stuck() {
        let (mut window, now) = window_of(&[EIGHTH; 8]);
        send_ready(&mut window, now);
        (1..=7).for_each(|key| assert!(!window.give_up(key)));
        assert!(!window.is_stuck(1));
        window.give_up(8);
        assert!(window.is_stuck(1));
        assert!(!window_of(&[]).0.is_stuck(COURSE_MAX_BYTES));
    }

    #[test]
    fn a_notice_waits_for_room_and_takes_none() {
        let (mut window, now) = window_of(&[COURSE_MAX_BYTES]);
        let soon = now + Duration::from_secs(1);
        window.queue(NOBODY, vec![b'x'], soon).unwrap();
        assert_eq!(send_ready(&mut window, now), 1);
        window.answer(1);
        assert_eq!((send_ready(&mut window, now), window.sent_bytes), (1, 0));
        window.queue(2, vec![b'x'; COURSE_MAX_BYTES], soon).unwrap();
        window.queue(NOBODY, vec![b'x'], soon).unwrap();
        assert_eq!(send_ready(&mut window, now), 1);
        window.answer(2);
        assert_eq!(send_ready(&mut window, soon), 0, "it has waited too long");
        assert!(window.waiting.is_empty());
    }

    #[test]
    fn the_queue_is_bounded() {
        let (mut window, now) = window_of(&[OUTBOX_LIMIT_BYTES]);
        assert_eq!(window.queue(2, vec![b'x'], now), Err(Refusal::Busy));
    }

    #[test]
    fn a_reply_without_a_key_is_for_the_only_request_that_is_waited_for() {
        let (mut window, now) = window_of(&[1, 1]);
        assert_eq!(window.only_unanswered(), None, "nothing is sent yet");
        send_ready(&mut window, now);
        assert_eq!(window.only_unanswered(), None, "either may be meant");
        window.give_up(1);
        assert_eq!(window.only_unanswered(), Some(2));
        window.answer(2);
        assert_eq!(window.only_unanswered(), None);
    }
}
