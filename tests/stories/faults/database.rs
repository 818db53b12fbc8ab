//! The database: locked by another process, on a full disk, on a disk that rejects writes.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{count_lines, create, emails};
use crate::harness::{Event, Http, Output, Process, Program, Response, Scratch, System, await_instances};

// ---- locked

/// Another process that holds a write transaction on this story's database.
fn lock_database(scratch: &Scratch) -> rusqlite::Connection {
    let other = rusqlite::Connection::open(scratch.file("users.db")).unwrap();
    other.busy_timeout(Duration::from_secs(10)).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    other
}

/// Creates these users, each on a separate connection, all at once.
fn create_all(http: Http, emails: &[String]) -> Vec<JoinHandle<(Response, Duration)>> {
    let create_one = |email: &String| {
        let email = email.clone();
        thread::spawn(move || {
            let began = Instant::now();
            (create(&http, &email), began.elapsed())
        })
    };
    emails.iter().map(create_one).collect()
}

fn addresses(round: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{round}-{number}@example.com")).collect()
}

/// Reads without a pause until the flag is set. Returns the number of reads; every read must succeed.
fn keep_reading(http: Http, ended: &Arc<AtomicBool>) -> JoinHandle<usize> {
    let ended = ended.clone();
    thread::spawn(move || {
        let mut count = 0;
        while !ended.load(Ordering::SeqCst) {
            for path in ["/users/1", "/users?limit=10"] {
                let answer = http.get(path);
                assert_eq!(answer.status, 200, "{path}: {}", answer.text());
            }
            count += 2;
        }
        count
    })
}

#[test]
fn while_another_process_locks_the_database_writes_wait_and_reads_continue() {
    let system = System::builder().scratch(Scratch::in_memory()).users(2).start();
    system.create_user("kim@example.com", "Kim");
    let mut created = vec!["kim@example.com".to_owned()];
    for round in 1.. {
        let ended = Arc::default();
        let reader = keep_reading(system.http(), &ended);
        let other = lock_database(&system.scratch);
        let locked = Instant::now();
        let new = addresses(&format!("round{round}"), 20);
        let writers = create_all(system.http(), &new);
        thread::sleep(Duration::from_secs(2).saturating_sub(locked.elapsed()));
        assert!(writers.iter().all(|writer| !writer.is_finished()), "they wait");
        other.execute_batch("COMMIT").unwrap();
        let held = locked.elapsed();
        let answers: Vec<_> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
        ended.store(true, Ordering::SeqCst);
        let reads = reader.join().unwrap();
        let statuses: Vec<u16> = answers.iter().map(|(answer, _)| answer.status).collect();
        println!(
            "locked for {held:?}: {reads} reads succeeded meanwhile, the writes ended with {statuses:?}"
        );
        assert!(reads > 0);
        created.extend(
            new.iter().zip(&statuses).filter(|(_, status)| **status == 201).map(|(new, _)| new.clone()),
        );
        // If a busy machine releases the lock too late, the round proves nothing.
        if held < Duration::from_millis(2500) || round == 5 {
            assert!(statuses.iter().all(|status| *status == 201), "{statuses:?}");
            break;
        }
    }
    let changes = system.http().get("/users/changes?limit=500").results();
    assert_eq!(changes.as_array().unwrap().len(), created.len());
    assert_eq!(sorted(emails(&system.http())), sorted(created), "each was written once");
}

#[test]
fn a_write_to_a_locked_database_gets_503_before_its_deadline() {
    refused_while_locked("1.5", Duration::from_secs(4));
}

#[test]
#[ignore = "slow: waits as long as a write may wait for another process, with the time-out as it is by default"]
fn a_write_waits_three_seconds_for_another_process_and_is_then_rejected() {
    refused_while_locked("5", Duration::from_secs(8));
}

fn refused_while_locked(timeout: &str, limit: Duration) {
    let system =
        System::builder().scratch(Scratch::in_memory()).gateway_flags(&["--timeout", timeout]).start();
    system.create_user("kim@example.com", "Kim");
    let ended = Arc::default();
    let reader = keep_reading(system.http(), &ended);
    let other = lock_database(&system.scratch);
    for (answer, took) in
        create_all(system.http(), &addresses("locked", 20)).into_iter().map(|writer| writer.join().unwrap())
    {
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert!(answer.message().contains("the database is busy"), "{}", answer.text());
        assert!(took < limit, "{took:?}");
    }
    assert_eq!(count_lines(&system.users[0].log(), "writes are refused"), 1);
    other.execute_batch("COMMIT").unwrap();
    assert_eq!(create(&system.http(), "next@example.com").status, 201);
    ended.store(true, Ordering::SeqCst);
    assert!(reader.join().unwrap() > 0);
    assert_eq!(emails(&system.http()), ["kim@example.com", "next@example.com"]);
    system.users[0].await_log(&["writes are accepted again"]);
}

// ---- a private disk

/// A users process that sees a private disk in this directory. The disk ends with the process.
struct OwnDisk {
    users: Process,
    directory: PathBuf,
    _scratch: Scratch,
}

/// The command that gives a process private mounts. `None` where that is not permitted.
fn with_own_mounts() -> Option<Vec<&'static str>> {
    let commands = [vec!["unshare", "-m"], vec!["unshare", "-rm"]];
    let permitted = commands.into_iter().find(|command| {
        let script = "mount -t tmpfs -o size=1m none /tmp";
        let tried = Command::new(command[0]).args(&command[1..]).args(["sh", "-c", script]).output();
        tried.is_ok_and(|tried| tried.status.success())
    });
    if permitted.is_none() {
        crate::harness::skip("unshare -m", "this user may not mount a private disk");
    }
    permitted
}

/// A users program that starts after this script has mounted a disk at the directory `$0`.
fn on_own_disk(distributor: &Process, scratch: &Scratch, script: &str) -> Option<Program> {
    let unshare = with_own_mounts()?;
    let script = format!("{script} && exec \"$@\"");
    let shell = ["sh", "-c", &script, scratch.path().to_str().unwrap()];
    Some(Program::users(distributor.address(), scratch).started_by(&[&unshare[..], &shell].concat()))
}

impl OwnDisk {
    /// Starts users on a disk that this script mounts at the directory `$0`.
    fn start(distributor: &Process, script: &str) -> Option<Self> {
        let scratch = Scratch::new();
        let users = on_own_disk(distributor, &scratch, script)?.start();
        Some(Self { users, directory: scratch.path().canonicalize().unwrap(), _scratch: scratch })
    }

    /// Starts users on a disk on which it cannot run. Returns the one sentence that it prints.
    fn refused(distributor: &Process, scratch: &Scratch, script: &str) -> Option<String> {
        let users = on_own_disk(distributor, scratch, script)?.variables(&[("RUST_LOG", "info")]);
        let Output { status, stdout, stderr } = users.run();
        assert_eq!((status, stdout.as_str()), (Some(1), ""), "{stderr}");
        let last = stderr.lines().last().unwrap_or_default();
        assert!(last.starts_with("users: "), "{stderr}");
        Some(last.to_owned())
    }

    /// The path of a file on that disk, from outside its namespace.
    fn file(&self, name: &str) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.users.id()));
        root.join(self.directory.strip_prefix("/").unwrap()).join(name)
    }

    fn fill(&self) {
        let mut ballast = fs::File::create(self.file("ballast")).unwrap();
        for size in [64 * 1024, 1024, 1] {
            while ballast.write_all(&vec![0; size]).is_ok() {}
        }
    }

    fn make_room(&self) {
        fs::remove_file(self.file("ballast")).unwrap();
    }
}

#[test]
fn on_a_full_disk_writes_are_rejected_and_reads_continue() {
    let distributor = Process::distributor(&[]);
    let Some(mut disk) = OwnDisk::start(&distributor, "mount -t tmpfs -o size=16m none \"$0\"") else {
        return;
    };
    let gateway = Process::gateway(&distributor, &[]);
    await_instances(&gateway, "GET", "/users", 1);
    let http = gateway.http();
    let mut written = addresses("before", 20);
    for email in &written {
        assert_eq!(create(&http, email).status, 201);
    }
    let mut events = http.events("/users/changes?after=0", &[]).unwrap();
    for round in 1..=3 {
        disk.fill();
        let ended = Arc::default();
        let reader = keep_reading(http, &ended);
        let new = addresses(&format!("full{round}"), 100);
        for (email, writer) in new.iter().zip(create_all(http, &new)) {
            let answer = writer.join().unwrap().0;
            // Writes that fit into already allocated space succeed.
            if answer.status == 201 {
                written.push(email.clone());
                continue;
            }
            assert_eq!(answer.status, 503, "{}", answer.text());
            assert_eq!(answer.message(), "the disk is full; nothing was written");
        }
        assert_eq!(create(&http, "last@example.com").status, 503, "the disk is full");
        assert!(disk.users.is_alive());
        disk.make_room();
        let after = format!("after{round}@example.com");
        assert_eq!(create(&http, &after).status, 201, "without a restart");
        written.push(after);
        ended.store(true, Ordering::SeqCst);
        assert!(reader.join().unwrap() > 0);
    }
    assert_eq!(count_lines(&disk.users.log(), "writes are refused: the disk is full"), 3, "once per fault");
    assert_eq!(count_lines(&disk.users.log(), "writes are accepted again"), 3);
    let changed: Vec<String> = written.iter().map(|_| email_in(&events.event().unwrap())).collect();
    let there = emails(&http);
    assert_eq!(changed, there, "the feed has the users in this order");
    assert_eq!(sorted(there), sorted(written), "exactly the acknowledged writes");
}

#[test]
fn users_does_not_start_on_a_full_disk_and_says_why() {
    let distributor = Process::distributor(&[]);
    let scratch = Scratch::new();
    assert!(Process::users(&distributor, &scratch, &[]).stop().success());
    let copy = scratch.file("copy");
    fs::rename(scratch.file("users.db"), &copy).unwrap();
    let full = "mount --bind \"$0\" /mnt && mount -t tmpfs -o size=1m none \"$0\"";
    let stuffed = "{ cat /dev/zero >\"$0/ballast\" 2>/dev/null || true; }";
    let new = format!("{full} && {stuffed}");
    let known = format!("{full} && cp /mnt/copy \"$0/users.db\" && {stuffed}");
    for script in [new, known] {
        let Some(message) = OwnDisk::refused(&distributor, &scratch, &script) else { return };
        println!("{message}");
        assert!(message.contains("disk is full") && message.contains("users.db"), "{message}");
    }
}

#[test]
fn users_does_not_start_on_a_disk_that_may_only_be_read_and_says_why() {
    let distributor = Process::distributor(&[]);
    let script = "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\"";
    let scratch = Scratch::new();
    let Some(new) = OwnDisk::refused(&distributor, &scratch, script) else { return };
    assert!(new.contains("users.db: Read-only file system"), "{new}");
    // An existing database, with the files that its last process left beside it.
    Process::users(&distributor, &scratch, &[]).kill();
    for left in ["", "users.db-shm", "users.db-wal"] {
        let _ = fs::remove_file(scratch.file(left));
        let Some(message) = OwnDisk::refused(&distributor, &scratch, script) else { return };
        println!("{message}");
        let words = "users.db: it, or a file beside it (-wal, -shm), may not be written";
        assert!(message.contains(words), "without {left}: {message}");
    }
}

#[test]
fn on_a_read_only_disk_writes_are_rejected_and_reads_continue() {
    let mut system = System::start();
    let http = system.http();
    assert_eq!(create(&http, "before@example.com").status, 201);
    let ended = Arc::default();
    let reader = keep_reading(http, &ended);
    let Some(frozen) = Frozen::all(&system.scratch) else { return ended.store(true, Ordering::SeqCst) };
    for (answer, _) in
        create_all(http, &addresses("frozen", 20)).into_iter().map(|writer| writer.join().unwrap())
    {
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert_eq!(
            answer.message(),
            "the disk does not take what is written (SQLite error 778); nothing was written"
        );
    }
    assert!(system.users[0].is_alive());
    assert_eq!(count_lines(&system.users[0].log(), "writes are refused"), 1);
    drop(frozen);
    assert_eq!(create(&http, "after@example.com").status, 201, "without a restart");
    ended.store(true, Ordering::SeqCst);
    assert!(reader.join().unwrap() > 0);
    assert_eq!(emails(&http), ["before@example.com", "after@example.com"]);
}

/// Database files that can be read but not written, even by the process that has them open.
struct Frozen(Vec<PathBuf>);

impl Frozen {
    /// `None` where that is not permitted, or where the file system does not support such files.
    fn all(scratch: &Scratch) -> Option<Self> {
        let files = ["users.db", "users.db-wal", "users.db-shm"].map(|name| scratch.file(name));
        let frozen = Self(files.to_vec());
        if Self::change("+i", &frozen.0) && fs::OpenOptions::new().append(true).open(&files[0]).is_err() {
            return Some(frozen);
        }
        crate::harness::skip("chattr +i", "this user may not freeze files on this file system");
        None
    }

    fn change(how: &str, files: &[PathBuf]) -> bool {
        Command::new("chattr").arg(how).args(files).output().is_ok_and(|done| done.status.success())
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        Self::change("-i", &self.0);
    }
}

fn email_in(event: &Event) -> String {
    let change: Value = serde_json::from_str(&event.data).unwrap();
    change["user"]["email"].as_str().unwrap().to_owned()
}

fn sorted(mut all: Vec<String>) -> Vec<String> {
    all.sort_unstable();
    all
}
