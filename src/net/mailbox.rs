//! Where a caller waits for its reply: a channel with room for one, and a thread that sleeps beside it.
//!
//! A blocking `recv` of a channel first looks again and again, and gives the processor away a few times, in the
//! hope that the message is about to come. A reply comes from another process: it is never about to. So a caller sleeps
//! at once, and whoever fills its channel, or drops the sending end, wakes it.
//!
//! Into each mailbox exactly one letter is put: the reply, or that none will come. Once it has been taken out, nobody
//! else will put anything in, and the thread's next call uses the same channel again. One that was given up may be
//! filled at any time, and is never used twice.

use std::cell::Cell;
use std::thread::{self, Thread};
use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};

use super::link::ReplyFrame;

/// What is put into a mailbox: nothing is the news that no reply will come.
type Letter = Option<ReplyFrame>;

thread_local! {
    /// The channel of this thread's last call, if it may be used again.
    static SPARE: Cell<Option<(Sender<Letter>, Receiver<Letter>)>> = const { Cell::new(None) };
}

/// The end at which the reply comes in. Dropping it is the news that none will.
#[derive(Debug)]
pub struct Slot {
    sender: Sender<Letter>,
    filled: bool,
    sleeper: Thread,
}

/// The end at which the caller waits, on the thread that made it.
#[derive(Debug)]
pub struct Mailbox {
    sender: Sender<Letter>,
    letters: Receiver<Letter>,
    /// Its letter has been taken out.
    emptied: bool,
}

/// Both ends of a mailbox of this thread.
#[must_use]
pub fn mailbox() -> (Slot, Mailbox) {
    let (sender, letters) = SPARE.take().unwrap_or_else(new_channel);
    let slot = Slot { sender: sender.clone(), filled: false, sleeper: thread::current() };
    (slot, Mailbox { sender, letters, emptied: false })
}

#[cold]
fn new_channel() -> (Sender<Letter>, Receiver<Letter>) {
    bounded(1)
}

impl Slot {
    /// Puts the reply in and wakes the caller; false if the caller has gone.
    #[must_use]
    pub fn fill(mut self, reply: ReplyFrame) -> bool {
        self.filled = true;
        self.sender.try_send(Some(reply)).is_ok()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if !self.filled {
            let _ = self.sender.try_send(None);
        }
        // Not before the letter is in: the sleeper looks for it when it wakes.
        self.sleeper.unpark();
    }
}

impl Mailbox {
    /// Waits for the reply, at most until `deadline`.
    ///
    /// # Errors
    /// That none came in time, or that none will come.
    pub fn receive(&mut self, deadline: Instant) -> Result<ReplyFrame, RecvTimeoutError> {
        let letter = self.sleep_until(deadline)?;
        self.emptied = true;
        letter.ok_or(RecvTimeoutError::Disconnected)
    }

    fn sleep_until(&self, deadline: Instant) -> Result<Letter, RecvTimeoutError> {
        loop {
            match self.letters.try_recv() {
                Ok(letter) => return Ok(letter),
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
        if self.emptied {
            SPARE.set(Some((self.sender.clone(), self.letters.clone())));
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
        let (slot, mut mailbox) = mailbox();
        assert!(slot.fill(reply(1)));
        assert_eq!(mailbox.receive(soon()), Ok(reply(1)));
        let (slot, mut mailbox) = super::mailbox();
        let filling = thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            slot.fill(reply(2))
        });
        assert_eq!(mailbox.receive(soon()), Ok(reply(2)));
        assert!(filling.join().unwrap());
    }

    #[test]
    fn a_slot_that_is_dropped_wakes_its_caller_with_the_bad_news() {
        let (slot, mut mailbox) = mailbox();
        let dropping = thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            drop(slot);
        });
        assert_eq!(mailbox.receive(soon()), Err(RecvTimeoutError::Disconnected));
        dropping.join().unwrap();
    }

    #[test]
    fn a_caller_waits_no_longer_than_its_deadline_and_a_late_reply_finds_nobody() {
        let (slot, mut mailbox) = mailbox();
        let deadline = Instant::now() + Duration::from_millis(20);
        assert_eq!(mailbox.receive(deadline), Err(RecvTimeoutError::Timeout));
        assert!(Instant::now() >= deadline);
        drop(mailbox);
        assert!(!slot.fill(reply(3)));
    }

    #[test]
    fn a_channel_is_used_again_only_once_its_letter_has_been_taken_out() {
        let (slot, mut first) = mailbox();
        assert!(slot.fill(reply(4)));
        assert_eq!(first.receive(soon()), Ok(reply(4)));
        let used = first.letters.clone();
        drop(first);
        let (given_up, second) = mailbox();
        assert!(second.letters.same_channel(&used));
        drop(second);
        let (slot, mut third) = mailbox();
        assert!(!third.letters.same_channel(&used));
        let _ = given_up.fill(reply(5));
        assert!(slot.fill(reply(6)));
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
