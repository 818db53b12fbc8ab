//! Users, changes and tokens as values, which the store keeps and the operations return. They contain no SQL and no
//! rules.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::passwords::PasswordHash;

/// A user as it is shown, without the password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The store assigns it, from 1 up, and never reuses it.
    pub id: i64,
    /// The address as it was written. Two users never have addresses that differ only in case. `None` hides it from the
    /// reader.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// Any text.
    pub name: String,
    /// RFC 3339, UTC.
    pub created_at: String,
    /// RFC 3339, UTC.
    pub updated_at: String,
    /// The rights of the user. Only the role of an admin is shown.
    #[serde(default, skip_serializing_if = "Role::is_ordinary")]
    pub role: Role,
    /// The number of the last change of this user: its version.
    #[serde(skip)]
    pub changed_seq: u64,
}

/// The rights of a user.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// See and change its own record.
    #[default]
    User,
    /// See and change every record.
    Admin,
}

impl Role {
    // serde passes the field by reference.
    #[allow(clippy::trivially_copy_pass_by_ref)]
    fn is_ordinary(&self) -> bool {
        *self == Self::User
    }

    /// The name of the role, as it is stored.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Admin => "admin",
        }
    }
}

/// The fields of a new user. They have passed the input rules.
#[derive(Debug)]
pub struct NewUser {
    /// The e-mail address.
    pub email: String,
    /// The name.
    pub name: String,
    /// Without a password, the user cannot log in.
    pub password: Option<PasswordHash>,
    /// The rights of the user.
    pub role: Role,
}

/// The changed fields of a user. A field that is `None` keeps its value.
#[derive(Debug, Default)]
pub struct UserUpdate {
    /// The new e-mail address.
    pub email: Option<String>,
    /// The new name.
    pub name: Option<String>,
    /// The new password. It ends all tokens of the user.
    pub password: Option<PasswordHash>,
}

/// One page of the list of users.
#[derive(Debug)]
pub struct UserPage {
    /// In the order of their ids.
    pub users: Vec<User>,
    /// Whether the list continues after this page.
    pub more: bool,
    /// The number of the last change that this page reflects.
    pub seq: u64,
}

/// One change, in the form that is stored and sent.
#[derive(Debug, Clone, Serialize)]
pub struct Change {
    /// From 1 up, without gaps, in the order of commits.
    pub seq: u64,
    /// `created`, `updated` or `deleted`.
    pub kind: String,
    /// The id of the user.
    pub user_id: i64,
    /// The user after this change; `None` after a deletion.
    pub user: Option<Box<RawValue>>,
    /// The time of the change: RFC 3339, UTC.
    pub at: String,
}

/// When a new token expires.
#[derive(Debug, Clone, Serialize)]
pub struct Expiry {
    /// RFC 3339, UTC.
    pub expires_at: String,
}

/// The owner of a token that is valid.
#[derive(Debug)]
pub struct TokenOwner {
    /// The id of the user.
    pub user_id: i64,
    /// Whether the user is an admin.
    pub admin: bool,
    /// How long the token remains valid.
    pub seconds_left: f64,
}

/// The form in which e-mail addresses are compared: lower case.
#[must_use]
pub fn email_key(email: &str) -> String {
    email.to_lowercase()
}
