//! The mailbox where a caller waits for its reply: a channel for one message, and a parked thread.
//!
//! A blocking `recv` of a channel spins and yields first, because it expects a message soon. A reply comes from another
//! process and takes longer. So the caller parks at once. The thread that fills the channel, or drops the sending
//! end, unparks it.
//!
//! Each mailbox gets exactly one message: the reply, or a note that none will come. After a thread has received it, the
//! thread's next call reuses the channel. An abandoned mailbox may still be filled, so it is never reused.

use std::cell::Cell;
use std::thread::{self, Thread};
use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};

use super::reply::ReplyFrame;

/// A message is the reply, or `None` if no reply will come.
type Channel = (Sender<Option<ReplyFrame>>, Receiver<Option<ReplyFrame>>);

thread_local! {
    /// The channel of this thread's last call, if it can be reused.
    static SPARE: Cell<Option<Channel>> = const { Cell::new(None) };
}

/// The sending end. Dropping it means that no reply will come.
#[derive(Debug)]
pub struct ReplySender {
    sender: Sender<Option<ReplyFrame>>,
    is_filled: bool,
    caller: Thread,
}

/// The receiving end. The caller waits here, on the thread that created it.
#[derive(Debug)]
pub struct Mailbox {
    sender: Sender<Option<ReplyFrame>>,
    receiver: Receiver<Option<ReplyFrame>>,
    is_emptied: bool,
}

/// Creates both ends of a mailbox for this thread.
#[must_use]
pub fn mailbox() -> (ReplySender, Mailbox) {
    let (sender, receiver) = SPARE.take().unwrap_or_else(new_channel);
    let reply = ReplySender { sender: sender.clone(), is_filled: false, caller: thread::current() };
    (reply, Mailbox { sender, receiver, is_emptied: false })
}

#[cold]
fn new_channel() -> Channel {
    bounded(1)
}

impl ReplySender {
    /// Delivers the reply and wakes the caller. False if the caller no longer waits.
    #[must_use]
    pub fn fill(mut self, reply: ReplyFrame) -> bool {
        self.is_filled = true;
        self.sender.try_send(Some(reply)).is_ok()
    }
}

impl Drop for ReplySender {
    fn drop(&mut self) {
        if !self.is_filled {
            let _ = self.sender.try_send(None);
        }
        // The message must be in the channel first, because the caller checks it when it wakes.
        self.caller.unpark();
    }
}

impl Mailbox {
    /// Waits for the reply, at most until `deadline`.
    ///
    /// # Errors
    /// The reply did not come in time, or will never come.
    pub fn receive(&mut self, deadline: Instant) -> Result<ReplyFrame, RecvTimeoutError> {
        let message = self.park_until(deadline)?;
        self.is_emptied = true;
        message.ok_or(RecvTimeoutError::Disconnected)
    }

    fn park_until(&self, deadline: Instant) -> Result<Option<ReplyFrame>, RecvTimeoutError> {
        loop {
            match self.receiver.try_recv() {
                Ok(message) => return Ok(message),
                Err(TryRecvError::Disconnected) => return Err(RecvTimeoutError::Disconnected),
                Err(TryRecvError::Empty) => {}
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(RecvTimeoutError::Timeout);
            }
            thread::park_timeout(left);
        }
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        if self.is_emptied {
            SPARE.set(Some((self.sender.clone(), self.receiver.clone())));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    fn reply(number: u64) -> ReplyFrame {
        ReplyFrame::parse(&format!(r#"{{"seq":{number}}}"#)).unwrap()
    }

    #[test]
    fn a_reply_wakes_its_caller_whether_it_comes_before_or_while_it_waits() {
        let (sender, mut mailbox) = mailbox();
        assert!(sender.fill(reply(1)));
        assert_eq!(mailbox.receive(soon()), Ok(reply(1)));
        let (sender, mut mailbox) = super::mailbox();
        let filling = thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            sender.fill(reply(2))
        });
        assert_eq!(mailbox.receive(soon()), Ok(reply(2)));
        assert!(filling.join().unwrap());
    }

    #[test]
    fn a_dropped_sender_wakes_its_caller_without_a_reply() {
        let (sender, mut mailbox) = mailbox();
        let dropping = thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            drop(sender);
        });
        assert_eq!(mailbox.receive(soon()), Err(RecvTimeoutError::Disconnected));
        dropping.join().unwrap();
    }

    #[test]
    fn a_caller_waits_until_its_deadline_and_a_late_reply_is_dropped() {
        let (sender, mut mailbox) = mailbox();
        let deadline = Instant::now() + Duration::from_millis(20);
        assert_eq!(mailbox.receive(deadline), Err(RecvTimeoutError::Timeout));
        assert!(Instant::now() >= deadline);
        drop(mailbox);
        assert!(!sender.fill(reply(3)));
    }

    #[test]
    fn a_channel_is_used_again_only_after_its_message_has_been_taken_out() {
        let (sender, mut first) = mailbox();
        assert!(sender.fill(reply(4)));
        assert_eq!(first.receive(soon()), Ok(reply(4)));
        let used = first.receiver.clone();
        drop(first);
        let (given_up, second) = mailbox();
        assert!(second.receiver.same_channel(&used));
        drop(second);
        let (sender, mut third) = mailbox();
        assert!(!third.receiver.same_channel(&used));
        let _ = given_up.fill(reply(5));
        assert!(sender.fill(reply(6)));
        assert_eq!(third.receive(soon()), Ok(reply(6)), "what came late is nobody's");
    }

    #[test]
    fn two_mailboxes_of_one_thread_are_two() {
        let ((one, mut first), (other, mut second)) = (mailbox(), mailbox());
        assert!(one.fill(reply(7)));
        drop(other);
        assert_eq!(second.receive(soon()), Err(RecvTimeoutError::Disconnected));
        assert_eq!(first.receive(soon()), Ok(reply(7)));
    }
}
