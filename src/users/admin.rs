//! `users --admin`: how somebody becomes an admin. Over the network nobody does.
//!
//! It works on the database file, also while users processes run on it: they are told of the change as of any other.

use std::io::{self, BufRead, IsTerminal};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::input::Fields;
use super::model::{self, NewUser, Role, User};
use super::store::Store;
use crate::packet::Failure;

/// Makes the user with this e-mail address an admin; one that does not exist is created, with a password that is
/// asked for, or else read from the first line of stdin. Returned is what was done, in a sentence.
///
/// # Errors
/// A sentence that says why it could not be done.
pub fn make(database: &Path, email: &str) -> Result<String, String> {
    let fields = Map::from_iter([("email".to_owned(), json!(email))]);
    let email = checked(&fields, Fields::email)?;
    let store = Store::open(database)?;
    let said = |why: String| format!("{email} is not made an admin: {why}");
    let promote = email.clone();
    let promoted = store.write_now(move |db| model::make_admin(db, &promote, KEEP_ALL));
    if let Some((user, has_password)) = promoted.map_err(|error| said(error.to_string()))? {
        return Ok(of_old(&user, has_password));
    }
    let fields = Map::from_iter([("password".to_owned(), json!(ask_password(&email).map_err(said)?))]);
    let password =
        checked(&fields, Fields::new_password)?.hash().map_err(|error| said(error.errormessage))?;
    // Everybody sees the name: it must tell nothing of the address.
    let (email_of_new, name) = (email.clone(), "Admin".to_owned());
    let new = NewUser { email: email_of_new, name, password: Some(password), role: Role::Admin };
    let made = store.write_now(move |db| match model::make_admin(db, &new.email, KEEP_ALL)? {
        // Somebody has signed up with it while the password was typed.
        Some((user, has_password)) => Ok(of_old(&user, has_password)),
        None => {
            Ok(format!("{}, user {}, is new and an admin", new.email, model::create(db, &new, KEEP_ALL)?.id))
        }
    });
    made.map_err(|error| said(error.to_string()))
}

/// The running processes forget old changes, as they were told to; this one forgets none.
const KEEP_ALL: u64 = u64::MAX;

fn of_old(user: &User, has_password: bool) -> String {
    let email = user.email.as_deref().unwrap_or_default();
    let password = if has_password {
        "with the password that it has"
    } else {
        "but it has no password and cannot log in; another admin can give it one"
    };
    format!("{email}, user {}, is an admin now, {password}", user.id)
}

/// A field that must be there, by the same rules as everywhere.
fn checked<'a, T>(
    fields: &'a Map<String, Value>,
    read: impl FnOnce(Fields<'a>) -> Result<Option<T>, Failure>,
) -> Result<T, String> {
    let fields = Fields::among(fields, &["email", "password"]).map_err(|failure| failure.errormessage)?;
    match read(fields) {
        Ok(Some(value)) => Ok(value),
        Ok(None) => Err("it is missing".to_owned()),
        Err(failure) => Err(failure.errormessage),
    }
}

/// The first line of stdin. A person is asked, twice, since what is typed is not shown.
fn ask_password(email: &str) -> Result<String, String> {
    let unread = |error: io::Error| format!("no password could be read: {error}");
    if !io::stdin().is_terminal() {
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line).map_err(unread)?;
        return Ok(line.trim_end_matches(['\r', '\n']).to_owned());
    }
    let ask = |what: String| {
        eprint!("{what}: ");
        rpassword::read_password().map_err(unread)
    };
    let first = ask(format!("password for {email}"))?;
    if first == ask("once more".to_owned())? { Ok(first) } else { Err("the two passwords differ".to_owned()) }
}
