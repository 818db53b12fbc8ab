//! All child processes. Each is ended by its id: when its check ends, on a panic, and on Ctrl-C.

use std::collections::BTreeMap;
use std::io;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The children that may still run. Ctrl-C arrives on another thread, so it needs to find them here.
static CHILDREN: Mutex<BTreeMap<u32, Child>> = Mutex::new(BTreeMap::new());

fn children() -> MutexGuard<'static, BTreeMap<u32, Child>> {
    CHILDREN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a child. On Unix it leads a process group, so its own children end with it.
pub fn start(command: &mut Command) -> io::Result<(u32, Option<Pipe>, Option<Pipe>)> {
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(command, 0);
    // Start it under the lock: `end_all` must not miss a child that is starting.
    let mut children = children();
    let mut child = command.spawn()?;
    let stdout = child.stdout.take().map(|pipe| Box::new(pipe) as Pipe);
    let stderr = child.stderr.take().map(|pipe| Box::new(pipe) as Pipe);
    let id = child.id();
    children.insert(id, child);
    Ok((id, stdout, stderr))
}

/// One output of a child.
pub type Pipe = Box<dyn io::Read + Send>;

/// How the child has ended; `None` while it runs.
pub fn exit_status(id: u32) -> Option<ExitStatus> {
    let mut children = children();
    let status = children.get_mut(&id)?.try_wait().ok().flatten()?;
    end_group(id);
    Some(status)
}

/// Kills the child, and waits until it has ended.
pub fn end(id: u32) {
    if let Some(child) = children().remove(&id) {
        end_child(id, child);
    }
}

/// Kills all children, cleans up, and exits. No other child can start after this: the lock is never released.
pub fn end_all_and_exit(code: i32, clean_up: impl FnOnce()) -> ! {
    let mut children = children();
    for (id, child) in std::mem::take(&mut *children) {
        end_child(id, child);
    }
    clean_up();
    std::process::exit(code)
}

fn end_child(id: u32, mut child: Child) {
    // The id of a child that has been waited for may belong to another process by now.
    if matches!(child.try_wait(), Ok(None)) {
        end_group(id);
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Kills what the child has started, such as the `node` of `npm start`.
#[cfg(unix)]
fn end_group(id: u32) {
    use nix::sys::signal::{Signal, killpg};
    use nix::unistd::Pid;
    if let Ok(id) = i32::try_from(id) {
        // An error means that the group has already ended.
        let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
    }
}

#[cfg(not(unix))]
fn end_group(_id: u32) {}

/// Waits for the end of a child. Blocking would hold the lock, so it looks again and again.
pub fn wait(id: u32) -> Option<ExitStatus> {
    loop {
        if let Some(status) = exit_status(id) {
            return Some(status);
        }
        if !children().contains_key(&id) {
            return None;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
