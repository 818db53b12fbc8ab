//! A few threads behind a bounded queue, for work that waits or is slow.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::observe::metrics::{self, Gauge};

/// Threads that run jobs. They end when the pool is dropped and its queue is empty.
#[derive(Debug)]
pub struct Pool {
    jobs: Sender<Job>,
    /// The metrics show how many jobs wait while this exists.
    _shown: Arc<()>,
}

/// Whether the pool runs a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// The job runs on a thread of the pool.
    Admitted,
    /// The queue is full. The job is called immediately, on the caller's thread, only to report the rejection.
    Refused,
}

/// The error text when the operating system starts no further thread.
#[must_use]
#[allow(
    clippy::needless_pass_by_value,
    reason = "it is written for `map_err`, which passes the error by value"
)]
pub fn no_thread(error: io::Error) -> String {
    format!("the operating system starts no further thread: {error}")
}

type Job = Box<dyn FnOnce(Admission) + Send>;

impl Pool {
    /// Starts `threads` threads called `name`, with room for `waiting` jobs in the queue.
    ///
    /// # Errors
    /// A sentence, if the operating system starts no further thread.
    pub fn start(name: &str, threads: usize, waiting: usize) -> Result<Self, String> {
        let (jobs, queue) = bounded::<Job>(waiting);
        for number in 1..=threads {
            let queue: Receiver<Job> = queue.clone();
            thread::Builder::new()
                .name(format!("{name} {number}"))
                .spawn(move || run_jobs(&queue))
                .map_err(no_thread)?;
        }
        let shown = Arc::new(());
        let pool_exists = Arc::downgrade(&shown);
        metrics::watch(Gauge::PoolWaiting(name), move || pool_exists.upgrade().map(|_| queue.len()));
        Ok(Self { jobs, _shown: shown })
    }

    /// Runs `job` on a thread of the pool when one is free. The job is called exactly once, with its admission as the
    /// argument.
    pub fn submit(&self, job: impl FnOnce(Admission) + Send + 'static) {
        if let Err(refused) = self.jobs.try_send(Box::new(job)) {
            refused.into_inner()(Admission::Refused);
        }
    }
}

fn run_jobs(queue: &Receiver<Job>) {
    while let Ok(job) = queue.recv() {
        if catch_unwind(AssertUnwindSafe(|| job(Admission::Admitted))).is_err() {
            log::error!("a job of {:?} panicked", thread::current().name().unwrap_or("a pool"));
        }
    }
}
