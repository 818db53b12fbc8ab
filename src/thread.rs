//! Starts the named threads of every layer.

use std::io;
use std::thread::{Builder, JoinHandle};

/// The stack size of every thread that serves one connection, in bytes. Only the used pages cost memory.
pub const CONNECTION_STACK_BYTES: usize = 256 * 1024;

/// Starts a named thread with the stack size for a connection.
///
/// # Errors
/// The operating system starts no further thread.
pub fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    // A NUL in the name is an error. Linux shows the first 15 bytes of a name and accepts any length.
    let name = name.replace('\0', "");
    Builder::new().name(name).stack_size(CONNECTION_STACK_BYTES).spawn(body)
}
