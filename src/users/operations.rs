//! The writes of the service as data. Each checks its rules inside its own transaction.

use super::access::Credential;
use super::login_limit::LoginLimit;
use super::passwords::{PasswordHash, TokenHash};
use super::store::{Operation, StoreError, UserTransaction};
use super::values::{Expiry, NewUser, User, UserUpdate};

/// Creates a user.
#[derive(Debug)]
pub struct CreateUser(pub NewUser);

/// Changes a user, if the credential permits it.
#[derive(Debug)]
pub struct UpdateUser {
    /// The user.
    pub id: i64,
    /// The fields that change.
    pub update: UserUpdate,
    /// The permitted versions: the user must have one of them.
    pub expected: Option<Vec<u64>>,
    /// The credential of the client.
    pub credential: Credential,
}

/// Deletes a user, if the credential permits it.
#[derive(Debug)]
pub struct DeleteUser {
    /// The user.
    pub id: i64,
    /// The permitted versions: the user must have one of them.
    pub expected: Option<Vec<u64>>,
    /// The credential of the client.
    pub credential: Credential,
}

/// Completes a login attempt: adds a token, or counts a failure.
#[derive(Debug)]
pub struct FinishLogin {
    /// The user and the hash that the password matched; `None` if it matched none.
    pub matched: Option<(i64, PasswordHash)>,
    /// The limit on failed logins.
    pub limit: LoginLimit,
    /// The token to add.
    pub token: TokenHash,
    /// How long the token is valid.
    pub seconds: u64,
}

/// Ends a token. Returns whether it was valid.
#[derive(Debug)]
pub struct EndToken(pub TokenHash);

/// Makes an existing user an admin.
#[derive(Debug)]
pub struct MakeAdmin {
    /// The e-mail address of the user.
    pub email: String,
}

/// Creates an admin. If a user has the e-mail address by now, makes that user an admin.
#[derive(Debug)]
pub struct CreateAdmin(pub NewUser);

/// How a user became an admin.
#[derive(Debug)]
pub enum AdminOutcome {
    /// The user already existed.
    Promoted {
        /// The user.
        user: User,
        /// Whether the user has a password.
        has_password: bool,
    },
    /// The user is new.
    Created(User),
}

/// Registers the port of a process that needs notifications of commits.
#[derive(Debug)]
pub struct AddListener {
    /// The loopback port.
    pub port: u16,
}

impl Operation for CreateUser {
    type Output = User;

    fn execute(&self, transaction: &dyn UserTransaction) -> Result<User, StoreError> {
        transaction.create(&self.0)
    }
}

impl Operation for UpdateUser {
    type Output = User;

    fn execute(&self, transaction: &dyn UserTransaction) -> Result<User, StoreError> {
        self.credential.require_owner(transaction, self.id)?;
        transaction.update(self.id, &self.update, self.expected.as_deref())
    }
}

impl Operation for DeleteUser {
    type Output = User;

    fn execute(&self, transaction: &dyn UserTransaction) -> Result<User, StoreError> {
        self.credential.require_owner(transaction, self.id)?;
        transaction.delete(self.id, self.expected.as_deref())
    }
}

impl Operation for FinishLogin {
    /// `None` if the login failed.
    type Output = Option<Expiry>;

    fn execute(&self, transaction: &dyn UserTransaction) -> Result<Option<Expiry>, StoreError> {
        self.limit.check(transaction)?;
        if let Some((user, checked)) = &self.matched {
            match transaction.add_token(*user, checked, &self.token, self.seconds) {
                Ok(expiry) => return Ok(Some(expiry)),
                // The user or the password has changed since: the password is wrong now.
                Err(StoreError::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        self.limit.count_failure(transaction)?;
        Ok(None)
    }
}

impl Operation for EndToken {
    type Output = bool;

    fn execute(&self, transaction: &dyn UserTransaction) -> Result<bool, StoreError> {
        transaction.end_token(&self.0)
    }
}

impl Operation for MakeAdmin {
    /// The user, and whether it has a password; `None` if no user has the address.
    type Output = Option<(User, bool)>;

    fn execute(&self, transaction: &dyn UserTransaction) -> Result<Self::Output, StoreError> {
        transaction.make_admin(&self.email)
    }
}

impl Operation for CreateAdmin {
    type Output = AdminOutcome;

    fn execute(&self, transaction: &dyn UserTransaction) -> Result<AdminOutcome, StoreError> {
        match transaction.make_admin(&self.0.email)? {
            Some((user, has_password)) => Ok(AdminOutcome::Promoted { user, has_password }),
            None => Ok(AdminOutcome::Created(transaction.create(&self.0)?)),
        }
    }
}

impl Operation for AddListener {
    type Output = ();

    fn execute(&self, transaction: &dyn UserTransaction) -> Result<(), StoreError> {
        transaction.add_listener(self.port)
    }
}
