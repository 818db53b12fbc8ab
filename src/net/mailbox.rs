//! Where a caller waits for its reply: a channel with room for one, and a thread that sleeps beside it.
//!
//! A blocking `recv` of a channel first looks again and again, and gives the processor away a few times, in the
//! hope that the message is about to come. For a lone caller that is right: it is spared a wake-up. With hundreds of
//! callers on a few processors it is most of all that these do. So a caller who is not alone sleeps at once, and
//! whoever fills its channel, or drops the sending end, wakes it.

use std::thread::{self, Thread};
use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};

/// The end at which the reply comes in. Dropping it is the news that none will.
#[derive(Debug)]
pub struct Slot<T> {
    /// Nothing once it has been dropped: the sleeper must find that out when it wakes, not before.
    sender: Option<Sender<T>>,
    sleeper: Thread,
}

/// The end at which the caller waits, on the thread that made it.
#[derive(Debug)]
pub struct Mailbox<T>(Receiver<T>);

/// How a caller waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Looking again and again for a moment, since nobody else wants the processor.
    Awake,
    /// Until it is woken.
    Asleep,
}

/// Both ends of a mailbox of this thread.
#[must_use]
pub fn mailbox<T>() -> (Slot<T>, Mailbox<T>) {
    let (sender, receiver) = bounded(1);
    (Slot { sender: Some(sender), sleeper: thread::current() }, Mailbox(receiver))
}

impl<T> Slot<T> {
    /// Puts the reply in and wakes the caller; false if the caller has gone, or has a reply already.
    #[must_use]
    pub fn fill(self, reply: T) -> bool {
        self.sender.as_ref().is_some_and(|sender| sender.try_send(reply).is_ok())
    }
}

impl<T> Drop for Slot<T> {
    fn drop(&mut self) {
        drop(self.sender.take());
        self.sleeper.unpark();
    }
}

impl<T> Mailbox<T> {
    /// Waits for the reply, at most until `deadline`.
    ///
    /// # Errors
    /// That none came in time, or that none will come.
    pub fn receive(&self, deadline: Instant, how: Wait) -> Result<T, RecvTimeoutError> {
        if how == Wait::Awake {
            return self.0.recv_deadline(deadline);
        }
        loop {
            match self.0.try_recv() {
                Ok(reply) => return Ok(reply),
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

    /// The channel itself, to wait for several.
    #[must_use]
    pub fn channel(&self) -> &Receiver<T> {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const BOTH: [Wait; 2] = [Wait::Awake, Wait::Asleep];

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[test]
    fn a_reply_wakes_its_caller_whether_it_comes_before_or_while_it_waits() {
        for how in BOTH {
            let (slot, mailbox) = mailbox();
            assert!(slot.fill(1));
            assert_eq!(mailbox.receive(soon(), how), Ok(1));
            let (slot, mailbox) = super::mailbox();
            let filling = thread::spawn(move || {
                thread::sleep(Duration::from_millis(20));
                slot.fill(2)
            });
            assert_eq!(mailbox.receive(soon(), how), Ok(2));
            assert!(filling.join().unwrap());
        }
    }

    #[test]
    fn a_slot_that_is_dropped_wakes_its_caller_with_the_bad_news() {
        for how in BOTH {
            let (slot, mailbox) = mailbox::<u8>();
            let dropping = thread::spawn(move || {
                thread::sleep(Duration::from_millis(20));
                drop(slot);
            });
            assert_eq!(mailbox.receive(soon(), how), Err(RecvTimeoutError::Disconnected));
            dropping.join().unwrap();
        }
    }

    #[test]
    fn a_caller_waits_no_longer_than_its_deadline_and_a_late_reply_finds_nobody() {
        for how in BOTH {
            let (slot, mailbox) = mailbox();
            let deadline = Instant::now() + Duration::from_millis(20);
            assert_eq!(mailbox.receive(deadline, how), Err(RecvTimeoutError::Timeout));
            assert!(Instant::now() >= deadline);
            drop(mailbox);
            assert!(!slot.fill(3));
        }
    }
}
