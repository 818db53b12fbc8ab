//! Tests of what no story reaches from outside: writes that fail in company, limits, and what cannot be printed.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded, unbounded};
use rusqlite::Connection;
use sha2::{Digest, Sha256};

use super::*;
use crate::service::Batch;

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// How many changes the feed keeps here.
const KEEP: u64 = 1000;

type Outcome = Result<User, StoreError>;

/// A database in a directory of its own, removed with it.
struct Scratch {
    store: Option<Store>,
    directory: PathBuf,
}

impl Scratch {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("pilcrow-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory).unwrap();
        let store = Some(Store::open(&directory.join("users.db")).unwrap());
        Self { store, directory }
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn write(&self, work: impl FnOnce(&Connection) -> Outcome + Send + 'static) -> Receiver<Outcome> {
        self.write_by(None, work)
    }

    fn write_by(
        &self,
        deadline: Option<Instant>,
        work: impl FnOnce(&Connection) -> Outcome + Send + 'static,
    ) -> Receiver<Outcome> {
        let (done, outcome) = bounded(1);
        // Whoever asked may have gone.
        self.store().write(deadline, work, move |ended| drop(done.send(ended)));
        outcome
    }

    /// Keeps the writer thread busy: what is written meanwhile waits and goes into one transaction.
    fn hold_the_writer(&self) -> impl FnOnce() {
        let (begun, has_begun) = bounded(1);
        let (release, released) = bounded::<()>(1);
        drop(self.write(move |_| {
            begun.send(()).unwrap();
            let _ = released.recv_timeout(PATIENCE);
            Err(StoreError::NotFound)
        }));
        has_begun.recv_timeout(PATIENCE).unwrap();
        move || drop(release)
    }

    fn emails(&self) -> Vec<String> {
        let users = self.store().read(|db| model::list(db, 500, 0, None)).unwrap().users;
        users.into_iter().filter_map(|user| user.email).collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.store = None;
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn new_user(email: &str, password: Option<PasswordHash>) -> NewUser {
    NewUser { email: email.to_owned(), name: "Kim".to_owned(), password, role: Role::User }
}

fn create(db: &Connection, email: &str) -> Outcome {
    model::create(db, &new_user(email, None), KEEP)
}

#[test]
fn a_write_that_fails_or_panics_undoes_nothing_of_those_that_go_with_it() {
    let scratch = Scratch::new();
    let release = scratch.hold_the_writer();
    let first = scratch.write(|db| create(db, "first@example.com"));
    let fails = scratch.write(|db| {
        create(db, "fails@example.com")?;
        create(db, "FIRST@example.com")
    });
    let panics = scratch.write(|db| {
        create(db, "panics@example.com")?;
        panic!("this panic belongs to the test");
    });
    let last = scratch.write(|db| create(db, "last@example.com"));
    release();
    assert_eq!(first.recv_timeout(PATIENCE).unwrap().unwrap().email.unwrap(), "first@example.com");
    assert!(matches!(fails.recv_timeout(PATIENCE).unwrap(), Err(StoreError::Taken)));
    assert!(panics.recv_timeout(PATIENCE).is_err(), "its report is dropped, and with it the responder");
    assert_eq!(last.recv_timeout(PATIENCE).unwrap().unwrap().email.unwrap(), "last@example.com");
    assert_eq!(scratch.emails(), ["first@example.com", "last@example.com"]);
}

#[test]
fn what_a_write_answers_is_what_the_table_and_the_feed_say_afterwards() {
    let scratch = Scratch::new();
    let name = Changes { name: Some("Lee".to_owned()), ..Changes::default() };
    let email = Changes { email: Some("LEE@example.com".to_owned()), ..Changes::default() };
    let password = PasswordHash::from_stored("$argon2id$new".to_owned());
    let password = Changes { password: Some(password), ..Changes::default() };
    let work = move |db: &Connection| {
        let mut told = vec![create(db, "kim@example.com")?];
        let mut read = vec![model::get(db, 1)?.0];
        for changes in [name, email, password] {
            told.push(model::update(db, 1, &changes, None, KEEP)?);
            read.push(model::get(db, 1)?.0);
        }
        Ok((told, read))
    };
    let (told, read) = scratch.store().write_now(work).unwrap();
    assert_eq!(told, read);
    let (feed, found) = scratch
        .store()
        .read(|db| Ok((model::changes(db, 0, 10)?, model::credentials(db, "lee@example.com")?)))
        .unwrap();
    let feed = feed
        .iter()
        .map(|change| (change.seq, change.at.as_str(), change.user.as_ref().unwrap().get().to_owned()));
    let expected = told
        .iter()
        .map(|user| (user.changed_seq, user.updated_at.as_str(), serde_json::to_string(user).unwrap()));
    assert_eq!(feed.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    assert_eq!(
        found.map(|(user, _)| user),
        told.last().cloned(),
        "the new e-mail finds the user, whatever its case"
    );
}

#[test]
fn the_feed_keeps_as_many_changes_as_it_says_and_at_most_a_thousandth_more() {
    const KEPT: u64 = 2000;
    let scratch = Scratch::new();
    let work = |db: &Connection| {
        let mut kept = Vec::new();
        for number in 1..=KEPT + 5 {
            model::create(db, &new_user(&format!("{number}@example.com"), None), KEPT)?;
            kept.push(model::last_seq(db)? + 1 - model::oldest_seq(db)?.unwrap_or_default());
        }
        Ok(kept)
    };
    let kept = scratch.store().write_now(work).unwrap();
    assert!(kept.ends_with(&[1999, 2000, 2001, 2000, 2001, 2000, 2001]), "{:?}", kept.last());
}

#[test]
fn a_report_that_panics_concerns_nobody_else() {
    let scratch = Scratch::new();
    let release = scratch.hold_the_writer();
    let work = |db: &Connection| create(db, "first@example.com");
    scratch.store().write(None, work, |_| panic!("this panic belongs to the test"));
    let with_it = scratch.write(|db| create(db, "with-it@example.com"));
    release();
    assert!(with_it.recv_timeout(PATIENCE).unwrap().is_ok());
    let after_it = scratch.write(|db| create(db, "after-it@example.com"));
    assert!(after_it.recv_timeout(PATIENCE).unwrap().is_ok());
    assert_eq!(scratch.emails(), ["first@example.com", "with-it@example.com", "after-it@example.com"]);
}

#[test]
fn if_the_commit_fails_everybody_is_told_and_the_next_write_goes_well() {
    let scratch = Scratch::new();
    let release = scratch.hold_the_writer();
    let innocent = scratch.write(|db| create(db, "innocent@example.com"));
    let guilty = scratch.write(|db| {
        // A token of nobody, which is found out at the commit.
        db.execute_batch(
            "PRAGMA defer_foreign_keys = ON;
             INSERT INTO tokens (hash, user_id, created_at, expires_at) VALUES (x'00', 99, '', '')",
        )?;
        create(db, "guilty@example.com")
    });
    release();
    for outcome in [innocent, guilty] {
        let told = outcome.recv_timeout(PATIENCE).unwrap().unwrap_err().to_string();
        assert!(told.contains("FOREIGN KEY"), "{told}");
    }
    assert_eq!(scratch.emails(), [""; 0]);
    let next = scratch.write(|db| create(db, "next@example.com"));
    assert!(next.recv_timeout(PATIENCE).unwrap().is_ok());
    assert_eq!(scratch.emails(), ["next@example.com"]);
}

#[test]
fn if_the_database_undoes_a_transaction_by_itself_everybody_in_it_is_told_and_nothing_remains() {
    let scratch = Scratch::new();
    let release = scratch.hold_the_writer();
    let before = scratch.write(|db| create(db, "before@example.com"));
    // SQLite does so on some failures, such as a full disk in the middle of a statement.
    let undone = scratch.write(|db| {
        db.execute_batch("ROLLBACK")?;
        Err(StoreError::DiskFull)
    });
    let behind = scratch.write(|db| create(db, "behind@example.com"));
    release();
    for told in [before, undone, behind] {
        assert!(matches!(told.recv_timeout(PATIENCE).unwrap(), Err(StoreError::DiskFull)));
    }
    assert!(scratch.emails().is_empty());
    let next = scratch.write(|db| create(db, "next@example.com"));
    assert!(next.recv_timeout(PATIENCE).unwrap().is_ok());
    assert_eq!(scratch.emails(), ["next@example.com"]);
}

#[test]
fn a_write_whose_asker_has_stopped_waiting_is_not_begun() {
    let scratch = Scratch::new();
    let release = scratch.hold_the_writer();
    let (now, later) = (Instant::now(), Instant::now() + Duration::from_secs(3600));
    let late = scratch.write_by(Some(now), |db| create(db, "late@example.com"));
    let timely = scratch.write_by(Some(later), |db| create(db, "timely@example.com"));
    release();
    assert!(matches!(late.recv_timeout(PATIENCE).unwrap(), Err(StoreError::TooLate)));
    assert!(timely.recv_timeout(PATIENCE).unwrap().is_ok());
    assert_eq!(scratch.emails(), ["timely@example.com"]);
}

#[test]
fn when_too_many_writes_wait_the_next_is_refused_at_once() {
    let scratch = Scratch::new();
    let release = scratch.hold_the_writer();
    let (told, outcomes) = unbounded();
    let mut refused = 0;
    for number in 0..1100 {
        let told = told.clone();
        let work = move |db: &Connection| create(db, &format!("{number}@example.com"));
        scratch.store().write(None, work, move |outcome| told.send(outcome).unwrap());
        refused += outcomes.try_iter().filter(|outcome| matches!(outcome, Err(StoreError::Busy))).count();
    }
    assert_eq!(refused, 1100 - 1024);
    release();
    for _ in 0..1024 {
        assert!(outcomes.recv_timeout(PATIENCE).unwrap().is_ok());
    }
}

#[test]
fn a_read_that_panics_keeps_no_connection() {
    let scratch = Scratch::new();
    for _ in 0..20 {
        let read = AssertUnwindSafe(|| {
            scratch.store().read(|_| -> Outcome { panic!("this panic belongs to the test") })
        });
        assert!(catch_unwind(read).is_err());
    }
    assert_eq!(scratch.emails(), [""; 0]);
}

#[test]
fn the_reads_of_a_batch_see_what_was_committed_before_it_and_those_that_want_the_newest_see_that() {
    let scratch = Scratch::new();
    let count = |sees| {
        let users = scratch.store().read_as(sees, |db| {
            Ok(db.query_row("SELECT count(*) FROM users", [], |row| row.get::<_, usize>(0))?)
        });
        users.unwrap()
    };
    let add = |email: &'static str| {
        scratch.write(move |db| create(db, email)).recv_timeout(PATIENCE).unwrap().unwrap();
    };
    add("before@example.com");
    scratch.store().on_batch(Batch::Begins);
    assert_eq!(count(Sees::Batch), 1);
    add("during@example.com");
    assert_eq!(count(Sees::Batch), 1, "one read transaction serves them all");
    assert_eq!(count(Sees::Newest), 2);
    assert_eq!(count(Sees::Batch), 2, "never an older state than one that was seen already");
    scratch.store().on_batch(Batch::Ends);
    add("after@example.com");
    assert_eq!((count(Sees::Batch), count(Sees::Newest)), (3, 3));
}

#[test]
fn no_batch_keeps_a_connection_nor_leaves_its_old_state_to_the_next_reader() {
    let scratch = Scratch::new();
    for _ in 0..3 * super::store::MAX_READERS {
        scratch.store().on_batch(Batch::Begins);
        let read = || scratch.store().read_as(Sees::Batch, |db| Ok(db.is_autocommit())).unwrap();
        assert!(!read());
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _ = scratch.store().read_as(Sees::Batch, |_| -> Outcome { panic!("a handler's mistake") });
        }));
        assert!(panicked.is_err());
        assert!(!read());
        scratch.store().on_batch(Batch::Ends);
        assert!(scratch.store().read(|db| Ok(db.is_autocommit())).unwrap());
    }
}

#[test]
fn a_second_store_on_the_same_file_reads_what_the_first_has_reported() {
    let scratch = Scratch::new();
    let second = Store::open(&scratch.directory.join("users.db")).unwrap();
    for number in 1..=20 {
        let written = scratch.write(move |db| create(db, &format!("{number}@example.com")));
        let user = written.recv_timeout(PATIENCE).unwrap().unwrap();
        assert_eq!(second.read(|db| model::get(db, user.id)).unwrap().0, user);
    }
}

#[test]
fn a_token_is_given_only_for_the_password_that_was_checked() {
    let scratch = Scratch::new();
    let [old, new] =
        ["$argon2id$old", "$argon2id$new"].map(|text| PasswordHash::from_stored(text.to_owned()));
    let (done, outcome) = bounded(1);
    let work = move |db: &Connection| {
        let id = model::create(db, &new_user("kim@example.com", Some(old)), KEEP)?.id;
        let old = PasswordHash::from_stored("$argon2id$old".to_owned());
        model::add_token(db, id, &old, b"first", 60)?;
        let count =
            |db: &Connection| db.query_row("SELECT count(*) FROM tokens", [], |row| row.get::<_, u32>(0));
        assert_eq!(count(db)?, 1);
        model::update(db, id, &Changes { password: Some(new), ..Changes::default() }, None, KEEP)?;
        assert_eq!(count(db)?, 0, "a new password ends the tokens of the old one");
        Ok(matches!(model::add_token(db, id, &old, b"second", 60), Err(StoreError::NotFound)))
    };
    scratch.store().write(None, work, move |ended| done.send(ended).unwrap());
    assert!(outcome.recv_timeout(PATIENCE).unwrap().unwrap(), "the password has changed during the login");
}

#[test]
fn of_many_tries_that_end_together_only_five_are_told_that_they_are_wrong_and_none_that_it_is_right() {
    let scratch = Scratch::new();
    let release = scratch.hold_the_writer();
    let (told, outcomes) = unbounded();
    for number in 0..64 {
        let told = told.clone();
        let guesser = Guesser::new("kim@example.com", None);
        scratch.store().read(|db| guesser.look(db)).unwrap();
        let work = move |db: &Connection| guesser.conclude(db, || Ok((number > 32).then_some(number)));
        scratch.store().write(None, work, move |outcome| told.send(outcome).unwrap());
    }
    release();
    let outcomes: Vec<_> = (0..64).map(|_| outcomes.recv_timeout(PATIENCE).unwrap()).collect();
    let wrong = outcomes.iter().filter(|outcome| matches!(outcome, Ok(None))).count();
    let refused =
        |outcome: &&_| matches!(outcome, Err(StoreError::Refused(failure)) if failure.errorcode == 429);
    assert_eq!((wrong, outcomes.iter().filter(refused).count()), (5, 59));
}

#[test]
fn passwords_and_their_hashes_cannot_be_printed() {
    let password = Password::new("correct horse");
    let hash = password.hash().unwrap();
    assert!(hash.as_str().starts_with("$argon2id$v=19$"), "{}", hash.as_str());
    let new = new_user("kim@example.com", Some(hash));
    let printed = format!("{password:?} {new:?}");
    assert!(!printed.contains("horse") && !printed.contains("argon2"), "{printed}");
}

#[test]
fn a_password_matches_its_own_hash_and_no_hash_matches_nothing() {
    let (right, wrong) = (Password::new("correct horse"), Password::new("Correct horse"));
    let [hash, again] = [right.hash().unwrap(), right.hash().unwrap()];
    assert_ne!(hash.as_str(), again.as_str(), "each hash has a salt of its own");
    assert!(right.matches(Some(&hash)) && right.matches(Some(&again)));
    assert!(!wrong.matches(Some(&hash)) && !right.matches(None));
    let garbage = PasswordHash::from_stored("no hash at all".to_owned());
    assert!(!right.matches(Some(&garbage)));
}

#[test]
fn a_token_is_256_random_bits_and_stored_as_its_hash() {
    let (first, second) = (Token::generate().unwrap(), Token::generate().unwrap());
    assert_ne!(first.text, second.text);
    assert!(first.text.len() == 64 && first.text.bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert_eq!(first.hash, Sha256::digest(first.text.as_bytes()).to_vec());
}

#[test]
fn when_too_many_passwords_wait_the_next_is_refused_at_once_with_503() {
    let pool = HashingPool::start().unwrap();
    let (begun, has_begun) = unbounded();
    let (release, released) = bounded::<()>(0);
    let threads = std::thread::available_parallelism().map_or(1, |count| (count.get() / 2).max(1));
    for _ in 0..threads {
        let (begun, released) = (begun.clone(), released.clone());
        pool.submit(move |_| {
            begun.send(()).unwrap();
            let _ = released.recv_timeout(PATIENCE);
        });
    }
    for _ in 0..threads {
        has_begun.recv_timeout(PATIENCE).unwrap();
    }
    let (told, admitted) = unbounded();
    let submit = || {
        let told = told.clone();
        pool.submit(move |outcome| told.send(outcome).unwrap());
    };
    (0..64).for_each(|_| submit());
    assert!(admitted.is_empty(), "all threads are at work");
    submit();
    assert_eq!(admitted.try_recv().unwrap().unwrap_err().errorcode, 503);
    drop(release);
    for _ in 0..64 {
        assert!(admitted.recv_timeout(PATIENCE).unwrap().is_ok());
    }
}

#[test]
fn a_job_that_panics_leaves_the_pool_at_work() {
    let pool = HashingPool::start().unwrap();
    let (told, outcome) = unbounded();
    for number in 0..20 {
        let told = told.clone();
        pool.submit(move |_| {
            assert!(number % 2 == 1, "this panic belongs to the test");
            told.send(number).unwrap();
        });
    }
    let mut numbers: Vec<i32> = (0..10).map(|_| outcome.recv_timeout(PATIENCE).unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 3, 5, 7, 9, 11, 13, 15, 17, 19]);
}

#[test]
fn refusing_an_unknown_user_costs_what_refusing_a_wrong_password_costs() {
    let real = Password::new("correct horse").hash().unwrap();
    let cost = |hash: &str| hash.split('$').take(4).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(cost(real.as_str()), cost(passwords::NOBODYS));
    assert_eq!(real.as_str().len(), passwords::NOBODYS.len());
    assert!(!Password::new("correct horse").matches(None));
    assert!(Password::new("correct horse").matches(Some(&real)));
}
