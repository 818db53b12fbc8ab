//! Locks that survive a panic of another thread, and permits that are returned on every path.
//!
//! A panic ends only its own thread. The data behind our locks changes in single steps, so the next holder may
//! continue. Passing on the poison would turn one failed request into a dead process.

use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Locks `mutex`, even after a panic of its holder.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Locks for reading, even after a panic of a writer.
pub fn read<T: ?Sized>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

/// Locks for writing, even after a panic of another writer.
pub fn write<T: ?Sized>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

/// One of a limited number of permits, for example for requests in flight. Dropping it returns it.
#[derive(Debug)]
pub struct Permit<C: Deref<Target = AtomicUsize>>(C);

impl<C: Deref<Target = AtomicUsize>> Permit<C> {
    /// Takes a permit if fewer than `limit` are taken. `taken` counts them. It is a reference, or an `Arc` if the
    /// permit must outlive the borrow.
    #[must_use]
    pub fn take(taken: C, limit: usize) -> Option<Self> {
        let before = taken.fetch_add(1, Ordering::Relaxed);
        // Create it in any case: a permit above the limit returns itself.
        let permit = Self(taken);
        (before < limit).then_some(permit)
    }
}

impl<C: Deref<Target = AtomicUsize>> Drop for Permit<C> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
