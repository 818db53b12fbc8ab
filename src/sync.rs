//! Locks that survive a panic of another thread, and permits that are given back on every path.
//!
//! A panic ends the thread that met it and nothing else. What our locks guard is changed in single steps, so
//! the next holder may go on; passing the poison on would turn one failed request into a dead process.

use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Locks `mutex`, also after a panic of its holder.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Locks for reading, also after a panic of a writer.
pub fn read<T: ?Sized>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

/// Locks for writing, also after a panic of another writer.
pub fn write<T: ?Sized>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

/// One of a limited number, such as of requests in flight. Dropping it gives it back.
#[derive(Debug)]
pub struct Permit<C: Deref<Target = AtomicUsize>>(C);

impl<C: Deref<Target = AtomicUsize>> Permit<C> {
    /// Takes one, if fewer than `limit` are taken. `taken` counts them: a reference, or an `Arc` where the permit is to
    /// outlive the borrow.
    #[must_use]
    pub fn take(taken: C, limit: usize) -> Option<Self> {
        let before = taken.fetch_add(1, Ordering::Relaxed);
        // Made in any case: one too many gives itself back.
        let permit = Self(taken);
        (before < limit).then_some(permit)
    }
}

impl<C: Deref<Target = AtomicUsize>> Drop for Permit<C> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
