//! The contract of a store: it tests every operation, only through the interface. Every engine must pass [`check`]
//! unchanged.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};

use super::{Engine, FAILED_LOGIN_WINDOW_MS, GroupCommit, StoreError, UserReader, UserTransaction, View};
use crate::users::access::Credential;
use crate::users::database::Database;
use crate::users::login_limit::{LoginLimit, PER_EMAIL};
use crate::users::operations::{
    AddListener, AdminOutcome, CreateAdmin, CreateUser, DeleteUser, EndToken, FinishLogin, MakeAdmin,
    UpdateUser,
};
use crate::users::passwords::PasswordHash;
use crate::users::values::{NewUser, Role, User, UserUpdate};

/// Far longer than any operation takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// How many changes are kept, unless the test sets another number.
const KEEP: u64 = 1000;

/// Checks the whole contract. `open` opens an empty database that keeps this number of changes. The first value that it
/// returns removes the database when it is dropped.
pub fn check<E: Engine, D>(open: impl Fn(u64) -> (D, (E, E::Writer))) {
    let parts: [fn(&Database<E>); 11] = [
        an_email_address_is_unique_without_regard_to_case,
        a_write_returns_what_every_later_read_returns,
        only_an_expected_version_is_changed_or_deleted,
        a_rejected_write_undoes_only_itself,
        changes_have_numbers_without_gaps_and_are_read_in_parts,
        lists_have_pages_and_a_search,
        a_snapshot_sees_one_state_and_other_readers_the_newest,
        a_token_is_given_for_the_checked_password_alone,
        tokens_expire_and_end,
        failed_logins_are_counted_for_each_subject,
        an_admin_is_promoted_or_created,
    ];
    for part in parts {
        let (guard, (engine, writer)) = open(KEEP);
        let database = Database::start(engine, writer).unwrap();
        part(&database);
        drop(database);
        drop(guard);
    }
    let (guard, (engine, writer)) = open(2000);
    let database = Database::start(engine, writer).unwrap();
    the_feed_keeps_what_it_promises_and_at_most_a_thousandth_more(&database, 2000);
    drop(database);
    drop(guard);
    let (guard, (engine, writer)) = open(KEEP);
    a_transaction_is_undone_in_parts_and_as_a_whole(&engine, &writer);
    listeners_are_added_once_and_removed(&writer);
    drop((engine, writer));
    drop(guard);
}

fn an_email_address_is_unique_without_regard_to_case<E: Engine>(database: &Database<E>) {
    let kim = create(database, "Kim@Example.com").unwrap();
    assert_eq!((kim.id, kim.email.as_deref()), (1, Some("Kim@Example.com")), "kept as it was written");
    assert!(matches!(create(database, "kim@example.COM"), Err(StoreError::Taken)));
    let lee = create(database, "lee@example.com").unwrap();
    let taken = update(database, lee.id, email("KIM@example.com"), None);
    assert!(matches!(taken, Err(StoreError::Taken)));
    update(database, kim.id, email("kim@example.com"), None).unwrap();
    let umlaut = create(database, "Ä@example.com").unwrap();
    assert!(matches!(create(database, "ä@example.com"), Err(StoreError::Taken)), "not only ASCII");
    let reader = database.reader(View::Newest).unwrap();
    assert_eq!(reader.credentials("ä@EXAMPLE.com").unwrap().unwrap().0.id, umlaut.id);
    assert!(reader.has_email(umlaut.id, "ä@example.com").unwrap());
    assert!(!reader.has_email(kim.id, "ä@example.com").unwrap() && !reader.has_email(99, "x").unwrap());
    assert!(reader.credentials("nobody@example.com").unwrap().is_none());
}

fn a_write_returns_what_every_later_read_returns<E: Engine>(database: &Database<E>) {
    let mut returned = vec![create(database, "kim@example.com").unwrap()];
    let new_password = UserUpdate { password: Some(hash("new")), ..UserUpdate::default() };
    for change in [name("Lee"), email("LEE@example.com"), new_password] {
        returned.push(update(database, 1, change, None).unwrap());
        let (read, seq) = database.reader(View::Newest).unwrap().get(1).unwrap();
        assert_eq!((Some(&read), seq), (returned.last(), read.changed_seq), "read your writes");
    }
    let reader = database.reader(View::Newest).unwrap();
    let changes = reader.changes_after(0, 10).unwrap();
    let feed: Vec<_> = changes
        .iter()
        .map(|change| (change.seq, change.at.clone(), change.user.as_ref().unwrap().get().to_owned()))
        .collect();
    let expected: Vec<_> = returned
        .iter()
        .map(|user| (user.changed_seq, user.updated_at.clone(), serde_json::to_string(user).unwrap()))
        .collect();
    assert_eq!(feed, expected);
    let (user, password) = reader.credentials("lee@example.com").unwrap().unwrap();
    assert_eq!(Some(&user), returned.last());
    assert_eq!(password.unwrap().as_str(), "new");
    assert!(matches!(reader.get(2), Err(StoreError::NotFound)));
}

fn only_an_expected_version_is_changed_or_deleted<E: Engine>(database: &Database<E>) {
    let first = create(database, "kim@example.com").unwrap();
    let second = update(database, 1, name("Lee"), Some(vec![first.changed_seq])).unwrap();
    assert_eq!(second.changed_seq, first.changed_seq + 1);
    assert!(second.updated_at >= first.updated_at && second.created_at == first.created_at);
    for expected in [vec![], vec![first.changed_seq], vec![99]] {
        let changed = update(database, 1, name("Park"), Some(expected.clone()));
        assert!(matches!(changed, Err(StoreError::Changed)));
        assert!(matches!(delete(database, 1, Some(expected)), Err(StoreError::Changed)));
    }
    assert!(matches!(update(database, 2, name("Park"), None), Err(StoreError::NotFound)));
    assert!(matches!(delete(database, 2, Some(vec![1])), Err(StoreError::NotFound)));
    let deleted = delete(database, 1, Some(vec![99, second.changed_seq])).unwrap();
    assert_eq!((deleted.name.as_str(), deleted.changed_seq), ("Lee", second.changed_seq + 1));
    assert!(matches!(delete(database, 1, None), Err(StoreError::NotFound)));
    let reader = database.reader(View::Newest).unwrap();
    assert!(matches!(reader.get(1), Err(StoreError::NotFound)));
    let last = reader.changes_after(second.changed_seq, 10).unwrap().pop().unwrap();
    assert_eq!((last.kind.as_str(), last.user_id, last.user.is_none()), ("deleted", 1, true));
    drop(reader);
    assert_eq!(create(database, "kim@example.com").unwrap().id, 2, "an id is never assigned again");
}

fn a_rejected_write_undoes_only_itself<E: Engine>(database: &Database<E>) {
    // All are queued before the first is reported, so most of them share a transaction.
    let writes: Vec<Receiver<Result<User, StoreError>>> = ["kim", "lee", "KIM", "park", "Lee", "choi"]
        .map(|name| queue(database, &format!("{name}@example.com")))
        .into();
    let outcomes: Vec<_> = writes.iter().map(|write| write.recv_timeout(PATIENCE).unwrap()).collect();
    let taken = outcomes.iter().map(|outcome| matches!(outcome, Err(StoreError::Taken)));
    assert_eq!(taken.collect::<Vec<_>>(), [false, false, true, false, true, false]);
    let numbers = outcomes.iter().flatten().map(|user| user.changed_seq);
    assert_eq!(numbers.collect::<Vec<_>>(), [1, 2, 3, 4], "a rejected write leaves no gap");
    let (done, late) = bounded(1);
    let user = CreateUser(new_user("late@example.com", None));
    database.write(Some(Instant::now()), user, move |outcome| done.send(outcome).unwrap());
    assert!(matches!(late.recv_timeout(PATIENCE).unwrap(), Err(StoreError::TooLate)));
    assert_eq!(emails(database).len(), 4);
}

fn changes_have_numbers_without_gaps_and_are_read_in_parts<E: Engine>(database: &Database<E>) {
    let reader = || database.reader(View::Newest).unwrap();
    assert_eq!((reader().last_seq().unwrap(), reader().oldest_seq().unwrap()), (0, None));
    create(database, "kim@example.com").unwrap();
    create(database, "lee@example.com").unwrap();
    update(database, 1, name("Park"), None).unwrap();
    delete(database, 2, None).unwrap();
    assert_eq!((reader().last_seq().unwrap(), reader().oldest_seq().unwrap()), (4, Some(1)));
    let read = |after, limit| {
        let changes = reader().changes_after(after, limit).unwrap();
        changes.into_iter().map(|change| (change.seq, change.kind, change.user_id)).collect::<Vec<_>>()
    };
    let all = [(1, "created", 1), (2, "created", 2), (3, "updated", 1), (4, "deleted", 2)]
        .map(|(seq, kind, user)| (seq, kind.to_owned(), user));
    assert_eq!(read(0, 10), all);
    assert_eq!((read(0, 2), read(2, 1), read(3, 9)), (all[..2].into(), all[2..3].into(), all[3..].into()));
    assert!(read(4, 10).is_empty() && read(u64::MAX, 10).is_empty());
}

fn lists_have_pages_and_a_search<E: Engine>(database: &Database<E>) {
    for number in 1..=5 {
        create(database, &format!("{number}@example.com")).unwrap();
    }
    delete(database, 3, None).unwrap();
    let page = |limit, after, email| {
        let page = database.reader(View::Snapshot).unwrap().list(limit, after, email).unwrap();
        assert_eq!(page.seq, 6);
        (page.users.iter().map(|user| user.id).collect::<Vec<_>>(), page.more)
    };
    assert_eq!(page(2, 0, None), (vec![1, 2], true));
    assert_eq!(page(2, 2, None), (vec![4, 5], false));
    assert_eq!(page(10, 5, None), (vec![], false));
    assert_eq!(page(10, 0, Some("4@EXAMPLE.com")), (vec![4], false));
    assert_eq!(page(10, 4, Some("4@example.com")), (vec![], false));
    assert_eq!(page(10, 0, Some("3@example.com")), (vec![], false));
}

fn a_snapshot_sees_one_state_and_other_readers_the_newest<E: Engine>(database: &Database<E>) {
    create(database, "kim@example.com").unwrap();
    let snapshot = database.reader(View::Snapshot).unwrap();
    assert_eq!(snapshot.last_seq().unwrap(), 1);
    let newest = database.reader(View::Newest).unwrap();
    update(database, 1, name("Lee"), None).unwrap();
    assert_eq!((snapshot.last_seq().unwrap(), snapshot.get(1).unwrap().0.name.as_str()), (1, "Kim"));
    assert_eq!((newest.last_seq().unwrap(), newest.get(1).unwrap().0.name.as_str()), (2, "Lee"));
    drop((snapshot, newest));
    let idle = database.idle_reader().unwrap();
    assert_eq!(idle.last_seq().unwrap(), 2, "no reader keeps an old state");
    drop(idle);
    assert_eq!(database.reader_in(None).unwrap().last_seq().unwrap(), 2, "without a batch: the newest");
}

fn a_token_is_given_for_the_checked_password_alone<E: Engine>(database: &Database<E>) {
    database.write_now(CreateUser(new_user("kim@example.com", Some(hash("old"))))).unwrap();
    assert!(log_in(database, Some((1, hash("old"))), [1; 32], 60).is_some());
    let before = database.reader(View::Newest).unwrap().rights_version().unwrap();
    let new_password = UserUpdate { password: Some(hash("new")), ..UserUpdate::default() };
    update(database, 1, new_password, None).unwrap();
    let reader = database.reader(View::Newest).unwrap();
    assert!(reader.token_owner(&[1; 32]).unwrap().is_none(), "a new password ends the tokens of the old one");
    assert_ne!(reader.rights_version().unwrap(), before);
    drop(reader);
    assert!(
        log_in(database, Some((1, hash("old"))), [2; 32], 60).is_none(),
        "it was changed during the login"
    );
    assert!(log_in(database, Some((2, hash("old"))), [2; 32], 60).is_none(), "there is no such user");
    assert!(log_in(database, Some((1, hash("new"))), [2; 32], 60).is_some());
    update(database, 1, name("Lee"), None).unwrap();
    assert!(database.reader(View::Newest).unwrap().token_owner(&[2; 32]).unwrap().is_some());
}

fn tokens_expire_and_end<E: Engine>(database: &Database<E>) {
    database.write_now(CreateUser(new_user("kim@example.com", Some(hash("right"))))).unwrap();
    let kim = || Some((1, hash("right")));
    let expiry = log_in(database, kim(), [1; 32], 60).unwrap();
    assert!(expiry.ends_with('Z') && expiry.len() == "2026-11-22T18:15:08.318Z".len(), "{expiry}");
    log_in(database, kim(), [2; 32], 0).unwrap();
    let owner = |token: u8| database.reader(View::Newest).unwrap().token_owner(&[token; 32]).unwrap();
    let found = owner(1).unwrap();
    assert_eq!((found.user_id, found.admin), (1, false));
    assert!(found.seconds_left > 50.0 && found.seconds_left <= 60.1, "{}", found.seconds_left);
    assert!(owner(2).is_none() && owner(3).is_none(), "one has expired, the other never existed");
    assert!(!database.write_now(EndToken([2; 32])).unwrap());
    assert!(database.write_now(EndToken([1; 32])).unwrap());
    assert!(!database.write_now(EndToken([1; 32])).unwrap());
    assert!(owner(1).is_none());
    log_in(database, kim(), [4; 32], 60).unwrap();
    delete(database, 1, None).unwrap();
    assert!(owner(4).is_none(), "the tokens of a user end with it");
}

fn failed_logins_are_counted_for_each_subject<E: Engine>(database: &Database<E>) {
    let (kim, lee) = (LoginLimit::new("kim@example.com", None), LoginLimit::new("lee@example.com", None));
    for _ in 0..PER_EMAIL {
        kim.check(&database.reader(View::Newest).unwrap()).unwrap();
        assert!(log_in(database, None, [0; 32], 60).is_none());
    }
    let reader = database.reader(View::Newest).unwrap();
    let Err(StoreError::Rejected(failure)) = kim.check(&reader) else { panic!("the limit holds") };
    assert_eq!(failure.errorcode, 429);
    assert!(lee.check(&reader).is_ok());
    drop(reader);
    let finish = FinishLogin { matched: None, limit: kim, token: [0; 32], seconds: 60 };
    assert!(
        matches!(database.write_now(finish), Err(StoreError::Rejected(_))),
        "checked again when it counts"
    );
}

fn an_admin_is_promoted_or_created<E: Engine>(database: &Database<E>) {
    let make = |email: &str| database.write_now(MakeAdmin { email: email.to_owned() }).unwrap();
    assert!(make("kim@example.com").is_none());
    create(database, "kim@example.com").unwrap();
    let rights = || database.reader(View::Newest).unwrap().rights_version().unwrap();
    let before = rights();
    let (kim, has_password) = make("KIM@example.com").unwrap();
    assert_eq!((kim.role, kim.changed_seq, has_password), (Role::Admin, 2, false));
    assert_ne!(rights(), before);
    assert_eq!(make("kim@example.com").unwrap().0.changed_seq, 2, "an admin is not changed again");
    let boss = || NewUser { role: Role::Admin, ..new_user("boss@example.com", Some(hash("right"))) };
    let created = database.write_now(CreateAdmin(boss())).unwrap();
    assert!(matches!(created, AdminOutcome::Created(user) if user.role == Role::Admin));
    let promoted = database.write_now(CreateAdmin(boss())).unwrap();
    assert!(matches!(promoted, AdminOutcome::Promoted { has_password: true, .. }));
    log_in(database, Some((2, hash("right"))), [1; 32], 60).unwrap();
    assert!(database.reader(View::Newest).unwrap().token_owner(&[1; 32]).unwrap().unwrap().admin);
    let stranger = DeleteUser { id: 1, expected: None, credential: Credential::Missing };
    assert!(matches!(database.write_now(stranger), Err(StoreError::Rejected(_))));
    let admin = DeleteUser { id: 1, expected: None, credential: Credential::Token([1; 32]) };
    database.write_now(admin).unwrap();
    database.write_now(AddListener { port: 1 }).unwrap();
}

fn the_feed_keeps_what_it_promises_and_at_most_a_thousandth_more<E: Engine>(
    database: &Database<E>,
    keep: u64,
) {
    let mut kept = Vec::new();
    create(database, "kim@example.com").unwrap();
    let writes = keep + 4;
    let mut last = None;
    for number in 2..=writes {
        last = Some(queue_update(database, &number.to_string()));
        if number % 500 == 0 || number >= keep - 1 {
            last.take().unwrap().recv_timeout(PATIENCE).unwrap().unwrap(); // the queue is bounded
        }
        if number >= keep - 1 {
            let snapshot = database.reader(View::Snapshot).unwrap();
            kept.push(snapshot.last_seq().unwrap() + 1 - snapshot.oldest_seq().unwrap().unwrap());
        }
    }
    assert!(last.is_none());
    assert_eq!(kept, [1999, 2000, 2001, 2000, 2001, 2000]);
}

fn a_transaction_is_undone_in_parts_and_as_a_whole<E: Engine>(engine: &E, writer: &E::Writer) {
    let emails = |reader: &dyn UserReader| reader.list(10, 0, None).unwrap().users.len();
    assert!(writer.check_open().is_err(), "no transaction is open");
    writer.begin(PATIENCE).unwrap();
    writer.check_open().unwrap();
    for (address, is_kept) in [("kept@example.com", true), ("undone@example.com", false)] {
        writer.set_savepoint().unwrap();
        writer.create(&new_user(address, None)).unwrap();
        if !is_kept {
            writer.undo_savepoint().unwrap();
        }
        writer.release_savepoint().unwrap();
    }
    assert_eq!(emails(writer), 1, "a transaction sees what it has written");
    assert_eq!(emails(&engine.reader(View::Newest).unwrap()), 0, "nobody else does");
    writer.commit().unwrap();
    assert_eq!(emails(&engine.reader(View::Newest).unwrap()), 1);
    writer.begin(PATIENCE).unwrap();
    writer.create(&new_user("undone@example.com", None)).unwrap();
    writer.roll_back().unwrap();
    writer.roll_back().unwrap();
    assert_eq!(emails(&engine.reader(View::Newest).unwrap()), 1);
    // Tests the arithmetic of the limit, without waiting for the clock.
    writer.begin(PATIENCE).unwrap();
    writer.count_failed_login(&[b"one", b"two"]).unwrap();
    writer.count_failed_login(&[b"one"]).unwrap();
    let wait = |subject: &[u8], limit| writer.login_wait_ms(subject, limit).unwrap();
    assert!((1..=FAILED_LOGIN_WINDOW_MS).contains(&wait(b"one", 2)), "{}", wait(b"one", 2));
    assert!(wait(b"two", 1) > 0 && wait(b"one", 3) <= 0 && wait(b"two", 2) <= 0 && wait(b"three", 1) <= 0);
    writer.commit().unwrap();
}

fn listeners_are_added_once_and_removed(writer: &impl GroupCommit) {
    writer.begin(PATIENCE).unwrap();
    for port in [4001, 4002, 4001] {
        writer.add_listener(port).unwrap();
    }
    writer.remove_listener(4002).unwrap();
    writer.remove_listener(4003).unwrap();
    assert_eq!(writer.listeners().unwrap(), [4001]);
    writer.commit().unwrap();
}

fn hash(text: &str) -> PasswordHash {
    PasswordHash::from_stored(text.to_owned())
}

fn new_user(email: &str, password: Option<PasswordHash>) -> NewUser {
    NewUser { email: email.to_owned(), name: "Kim".to_owned(), password, role: Role::User }
}

fn name(name: &str) -> UserUpdate {
    UserUpdate { name: Some(name.to_owned()), ..UserUpdate::default() }
}

fn email(email: &str) -> UserUpdate {
    UserUpdate { email: Some(email.to_owned()), ..UserUpdate::default() }
}

fn create<E: Engine>(database: &Database<E>, email: &str) -> Result<User, StoreError> {
    database.write_now(CreateUser(new_user(email, None)))
}

fn queue<E: Engine>(database: &Database<E>, email: &str) -> Receiver<Result<User, StoreError>> {
    let (done, outcome) = bounded(1);
    database.write(None, CreateUser(new_user(email, None)), move |written| drop(done.send(written)));
    outcome
}

fn queue_update<E: Engine>(database: &Database<E>, new_name: &str) -> Receiver<Result<User, StoreError>> {
    let (done, outcome) = bounded(1);
    let credential = Credential::Unchecked;
    let operation = UpdateUser { id: 1, update: name(new_name), expected: None, credential };
    database.write(None, operation, move |written| drop(done.send(written)));
    outcome
}

fn update<E: Engine>(
    database: &Database<E>,
    id: i64,
    update: UserUpdate,
    expected: Option<Vec<u64>>,
) -> Result<User, StoreError> {
    database.write_now(UpdateUser { id, update, expected, credential: Credential::Unchecked })
}

fn delete<E: Engine>(
    database: &Database<E>,
    id: i64,
    expected: Option<Vec<u64>>,
) -> Result<User, StoreError> {
    database.write_now(DeleteUser { id, expected, credential: Credential::Unchecked })
}

/// Ends a login for `kim@example.com`. Returns when its token expires.
fn log_in<E: Engine>(
    database: &Database<E>,
    matched: Option<(i64, PasswordHash)>,
    token: [u8; 32],
    seconds: u64,
) -> Option<String> {
    let limit = LoginLimit::new("kim@example.com", None);
    let finish = FinishLogin { matched, limit, token, seconds };
    database.write_now(finish).unwrap().map(|expiry| expiry.expires_at)
}

fn emails<E: Engine>(database: &Database<E>) -> Vec<String> {
    let users = database.reader(View::Newest).unwrap().list(500, 0, None).unwrap().users;
    users.into_iter().filter_map(|user| user.email).collect()
}
