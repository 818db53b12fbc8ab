//! `users --admin`: makes a user an admin. This is not possible over the network.
//!
//! It works on the database file, even while users processes run on it. They are notified as of any other change.

use std::io::{self, BufRead, IsTerminal};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::database::Database;
use super::input::Fields;
use super::operations::{AdminOutcome, CreateAdmin, MakeAdmin};
use super::values::{NewUser, Role, User};
use crate::packet::Failure;

/// The running processes delete old changes, as their flag states. This process deletes none.
const KEEP_ALL: u64 = u64::MAX;

/// Makes the user with this e-mail address an admin. Creates the user if it does not exist, with a password from the
/// terminal or else from the first line of stdin. Returns a sentence that states the result.
pub fn make(path: &Path, email: &str) -> Result<String, String> {
    let fields = Map::from_iter([("email".to_owned(), json!(email))]);
    let email = checked(&fields, Fields::email)?;
    let database = Database::open(path, KEEP_ALL)?;
    let explain = |why: String| format!("{email} is not made an admin: {why}");
    let promoted = database.write_now(MakeAdmin { email: email.clone() });
    if let Some((user, has_password)) = promoted.map_err(|error| explain(error.to_string()))? {
        return Ok(describe_promotion(&user, has_password));
    }
    let fields = Map::from_iter([("password".to_owned(), json!(ask_password(&email).map_err(explain)?))]);
    let password =
        checked(&fields, Fields::new_password)?.hash().map_err(|error| explain(error.errormessage))?;
    // All users see the name, so it must not reveal the address.
    let name = "Admin".to_owned();
    let new = NewUser { email: email.clone(), name, password: Some(password), role: Role::Admin };
    match database.write_now(CreateAdmin(new)).map_err(|error| explain(error.to_string()))? {
        // A client signed up with this address while the admin typed the password.
        AdminOutcome::Promoted { user, has_password } => Ok(describe_promotion(&user, has_password)),
        AdminOutcome::Created(user) => Ok(format!("{email}, user {}, is new and an admin", user.id)),
    }
}

fn describe_promotion(user: &User, has_password: bool) -> String {
    let email = user.email.as_deref().unwrap_or_default();
    let password = if has_password {
        "with the password that it has"
    } else {
        "but it has no password and cannot log in; another admin can give it one"
    };
    format!("{email}, user {}, is an admin now, {password}", user.id)
}

/// A required field, by the same rules as everywhere.
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

/// The first line of stdin. A terminal asks for the password twice, since it does not show the typed text.
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
