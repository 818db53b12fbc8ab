//! Tests that the stories cannot run from outside: failing writes in a group, limits, and values that must not be
//! printed.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded, unbounded};
use sha2::{Digest, Sha256};

use super::login_limit::LoginLimit;
use super::operations::FinishLogin;
use super::passwords::Token;
use super::sqlite::{LentReader, MAX_READERS, Sqlite};
use super::store::{UserTransaction, contract};
use super::*;
use crate::net::batch::OpenBatch;

/// Far longer than any operation here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// The number of changes that the feed keeps here.
const KEEP: u64 = 1000;

type Outcome = Result<User, StoreError>;

/// A database in a temporary directory, which is removed with it.
struct Scratch {
    database: Option<Database<Sqlite>>,
    directory: PathBuf,
}

/// A write that is a closure.
struct Execute<F>(F);

impl<T, F> Operation for Execute<F>
where
    T: Send + 'static,
    F: Fn(&dyn UserTransaction) -> Result<T, StoreError> + Send + 'static,
{
    type Output = T;

    fn execute(&self, transaction: &dyn UserTransaction) -> Result<T, StoreError> {
        self.0(transaction)
    }
}

impl Scratch {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("pilcrow-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory).unwrap();
        let mut scratch = Self { database: None, directory };
        scratch.database = Some(scratch.open(KEEP));
        scratch
    }

    fn open(&self, keep_changes: u64) -> Database<Sqlite> {
        Database::open(&self.directory.join("users.db"), keep_changes).unwrap()
    }

    fn database(&self) -> &Database<Sqlite> {
        self.database.as_ref().unwrap()
    }

    fn reader(&self) -> LentReader<'_> {
        self.database().reader(View::Newest).unwrap()
    }

    fn write(&self, work: impl Fn(&dyn UserTransaction) -> Outcome + Send + 'static) -> Receiver<Outcome> {
        self.write_by(None, work)
    }

    fn write_by(
        &self,
        deadline: Option<Instant>,
        work: impl Fn(&dyn UserTransaction) -> Outcome + Send + 'static,
    ) -> Receiver<Outcome> {
        let (done, outcome) = bounded(1);
        // The test may have dropped its receiver.
        self.database().write(deadline, Execute(work), move |ended| drop(done.send(ended)));
        outcome
    }

    /// Keeps the writer thread busy. Writes that arrive meanwhile wait and share one transaction.
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

    /// Changes the file without the knowledge of the service.
    fn run_sql(&self, sql: &str) {
        rusqlite::Connection::open(self.directory.join("users.db")).unwrap().execute_batch(sql).unwrap();
    }

    fn emails(&self) -> Vec<String> {
        let users = self.reader().list(500, 0, None).unwrap().users;
        users.into_iter().filter_map(|user| user.email).collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.database = None;
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn new_user(email: &str, password: Option<PasswordHash>) -> NewUser {
    NewUser { email: email.to_owned(), name: "Kim".to_owned(), password, role: Role::User }
}

fn create(transaction: &dyn UserTransaction, email: &str) -> Outcome {
    transaction.create(&new_user(email, None))
}

#[test]
fn sqlite_keeps_the_contract_of_a_store() {
    contract::check(|keep_changes| {
        let mut scratch = Scratch::new();
        scratch.database = None;
        let opened = Sqlite::open(&scratch.directory.join("users.db"), keep_changes).unwrap();
        (scratch, opened)
    });
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
    assert!(panics.recv_timeout(PATIENCE).is_err(), "its report is dropped with the responder");
    assert_eq!(last.recv_timeout(PATIENCE).unwrap().unwrap().email.unwrap(), "last@example.com");
    assert_eq!(scratch.emails(), ["first@example.com", "last@example.com"]);
}

#[test]
fn a_report_that_panics_concerns_no_other_write() {
    let scratch = Scratch::new();
    let release = scratch.hold_the_writer();
    let first = CreateUser(new_user("first@example.com", None));
    scratch.database().write(None, first, |_| panic!("this panic belongs to the test"));
    let with_it = scratch.write(|db| create(db, "with-it@example.com"));
    release();
    assert!(with_it.recv_timeout(PATIENCE).unwrap().is_ok());
    let after_it = scratch.write(|db| create(db, "after-it@example.com"));
    assert!(after_it.recv_timeout(PATIENCE).unwrap().is_ok());
    assert_eq!(scratch.emails(), ["first@example.com", "with-it@example.com", "after-it@example.com"]);
}

#[test]
fn if_the_commit_fails_every_write_fails_and_the_next_one_succeeds() {
    let scratch = Scratch::new();
    // A reference to a user that does not exist. SQLite detects it at the commit.
    scratch.run_sql(
        "CREATE TABLE orphans (user_id INTEGER REFERENCES users (id) DEFERRABLE INITIALLY DEFERRED);
         CREATE TRIGGER guilty AFTER INSERT ON users WHEN new.email = 'guilty@example.com' BEGIN
             INSERT INTO orphans VALUES (99);
         END",
    );
    let release = scratch.hold_the_writer();
    let innocent = scratch.write(|db| create(db, "innocent@example.com"));
    let guilty = scratch.write(|db| create(db, "guilty@example.com"));
    release();
    for outcome in [innocent, guilty] {
        let error = outcome.recv_timeout(PATIENCE).unwrap().unwrap_err().to_string();
        assert!(error.contains("FOREIGN KEY"), "{error}");
    }
    assert_eq!(scratch.emails(), [""; 0]);
    let next = scratch.write(|db| create(db, "next@example.com"));
    assert!(next.recv_timeout(PATIENCE).unwrap().is_ok());
    assert_eq!(scratch.emails(), ["next@example.com"]);
}

#[test]
fn if_the_database_rolls_back_a_transaction_every_write_in_it_fails() {
    let scratch = Scratch::new();
    // SQLite rolls back after some failures, such as a full disk in the middle of a statement.
    scratch.run_sql(
        "CREATE TRIGGER undone BEFORE INSERT ON users WHEN new.email = 'undone@example.com' BEGIN
             SELECT RAISE(ROLLBACK, 'this failure belongs to the test');
         END",
    );
    let release = scratch.hold_the_writer();
    let before = scratch.write(|db| create(db, "before@example.com"));
    let undone = scratch.write(|db| create(db, "undone@example.com"));
    let behind = scratch.write(|db| create(db, "behind@example.com"));
    release();
    for outcome in [before, undone, behind] {
        let error = outcome.recv_timeout(PATIENCE).unwrap().unwrap_err().to_string();
        assert!(error.contains("this failure belongs to the test"), "{error}");
    }
    assert!(scratch.emails().is_empty());
    let next = scratch.write(|db| create(db, "next@example.com"));
    assert!(next.recv_timeout(PATIENCE).unwrap().is_ok());
    assert_eq!(scratch.emails(), ["next@example.com"]);
}

#[test]
fn a_write_past_its_deadline_is_not_started() {
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
        let work = move |db: &dyn UserTransaction| create(db, &format!("{number}@example.com"));
        scratch.database().write(None, Execute(work), move |outcome| told.send(outcome).unwrap());
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
            let _reader = scratch.reader();
            panic!("this panic belongs to the test");
        });
        assert!(catch_unwind(read).is_err());
    }
    assert_eq!(scratch.emails(), [""; 0]);
}

#[test]
fn reads_of_a_batch_see_every_commit_before_it_and_others_see_the_newest_state() {
    let scratch = Scratch::new();
    let count = |view| scratch.database().reader(view).unwrap().list(500, 0, None).unwrap().users.len();
    let add = |email: &'static str| {
        scratch.write(move |db| create(db, email)).recv_timeout(PATIENCE).unwrap().unwrap();
    };
    add("before@example.com");
    let open = OpenBatch::default();
    let in_batch =
        |batch| scratch.database().reader_in(batch).unwrap().list(500, 0, None).unwrap().users.len();
    let batch = open.batch().clone();
    assert_eq!(in_batch(Some(&batch)), 1);
    add("during@example.com");
    assert_eq!(in_batch(Some(&batch)), 1, "one read transaction serves them all");
    assert_eq!((count(View::Newest), count(View::Snapshot)), (2, 2));
    drop(open);
    assert_eq!((in_batch(Some(&batch)), in_batch(None)), (2, 2), "a batch that has ended keeps nothing");
    add("after@example.com");
    assert_eq!((in_batch(Some(&batch)), count(View::Newest)), (3, 3));
}

#[test]
fn no_batch_keeps_a_connection_or_leaves_its_old_state_to_the_next_reader() {
    let scratch = Scratch::new();
    let is_old = |reader: LentReader<'_>| !reader.connection().unwrap().is_autocommit();
    for _ in 0..3 * MAX_READERS {
        let open = OpenBatch::default();
        let in_batch = || scratch.database().reader_in(Some(open.batch())).unwrap();
        assert!(is_old(in_batch()));
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _reader = in_batch();
            panic!("this panic belongs to the test");
        }));
        assert!(panicked.is_err());
        assert!(is_old(in_batch()));
        drop(open);
        assert!(is_old(scratch.database().reader(View::Snapshot).unwrap()));
        assert!(!is_old(scratch.database().reader(View::Newest).unwrap()));
    }
}

#[test]
fn many_batches_leave_connections_to_other_reads() {
    let scratch = Scratch::new();
    let open: Vec<OpenBatch> = (0..2 * MAX_READERS).map(|_| OpenBatch::default()).collect();
    let is_shared = |one: &OpenBatch| {
        let reader = scratch.database().reader_in(Some(one.batch())).unwrap();
        !reader.connection().unwrap().is_autocommit()
    };
    assert_eq!(open.iter().filter(|one| is_shared(one)).count(), MAX_READERS / 2);
    assert_eq!(scratch.emails(), [""; 0]);
    drop(open);
    assert!(is_shared(&OpenBatch::default()));
}

#[test]
fn a_second_process_on_the_same_file_reads_every_reported_write() {
    let scratch = Scratch::new();
    let second = scratch.open(KEEP);
    for number in 1..=20 {
        let written = scratch.write(move |db| create(db, &format!("{number}@example.com")));
        let user = written.recv_timeout(PATIENCE).unwrap().unwrap();
        assert_eq!(second.reader(View::Newest).unwrap().get(user.id).unwrap().0, user);
    }
}

#[test]
fn only_five_of_many_simultaneous_logins_learn_that_they_are_wrong() {
    let scratch = Scratch::new();
    let hash = || PasswordHash::from_stored("$argon2id$right".to_owned());
    let user = scratch.database().write_now(CreateUser(new_user("kim@example.com", Some(hash())))).unwrap();
    let release = scratch.hold_the_writer();
    let (told, outcomes) = unbounded();
    for number in 0..64_u8 {
        let told = told.clone();
        let limit = LoginLimit::new("kim@example.com", None);
        limit.check(&scratch.reader()).unwrap();
        let matched = (number > 32).then(|| (user.id, hash()));
        let finish = FinishLogin { matched, limit, token: [number; 32], seconds: 60 };
        scratch.database().write(None, finish, move |outcome| told.send(outcome).unwrap());
    }
    release();
    let outcomes: Vec<_> = (0..64).map(|_| outcomes.recv_timeout(PATIENCE).unwrap()).collect();
    let wrong = outcomes.iter().filter(|outcome| matches!(outcome, Ok(None))).count();
    let rejected =
        |outcome: &&_| matches!(outcome, Err(StoreError::Rejected(failure)) if failure.errorcode == 429);
    assert_eq!((wrong, outcomes.iter().filter(rejected).count()), (5, 59));
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
    assert_ne!(hash.as_str(), again.as_str(), "each hash has its own salt");
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
    assert_eq!(first.hash[..], Sha256::digest(first.text.as_bytes())[..]);
}

#[test]
fn when_too_many_passwords_wait_the_next_is_refused_at_once_with_503() {
    let pool = start_hashing().unwrap();
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
    let pool = start_hashing().unwrap();
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
fn an_unknown_user_costs_as_much_as_a_wrong_password() {
    let real = Password::new("correct horse").hash().unwrap();
    let cost = |hash: &str| hash.split('$').take(4).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(cost(real.as_str()), cost(passwords::DUMMY_HASH));
    assert_eq!(real.as_str().len(), passwords::DUMMY_HASH.len());
    assert!(!Password::new("correct horse").matches(None));
    assert!(Password::new("correct horse").matches(Some(&real)));
}
