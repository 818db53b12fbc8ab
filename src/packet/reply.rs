//! Replies: successes and failures, and how they are written with the key of a request.

use std::fmt;
use std::io::Write;

use serde::Serialize;
use serde_json::Value;

use super::{DELIMITER, Key, write_json};

/// A capacity that suffices for the members of almost every reply, in bytes.
const USUAL_MEMBERS_BYTES: usize = 224;

/// A success, without its key.
#[derive(Debug)]
pub struct Reply {
    status: Option<u16>,
    /// Its own members as frame text: a comma, a name, a colon and a value each.
    members: Vec<u8>,
}

/// A failure, without its key. It says what went wrong and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The matching HTTP status.
    pub errorcode: u16,
    /// What happened and what to do.
    pub errormessage: String,
    /// More top-level fields, for programs that need more than the code.
    pub details: Vec<(String, Value)>,
}

impl Reply {
    /// A success with these `results`.
    ///
    /// # Errors
    /// 500 if `results` has no JSON form, for example a map with keys that are not strings.
    pub fn ok<T: Serialize>(results: T) -> Result<Self, Failure> {
        Self { status: None, members: Vec::with_capacity(USUAL_MEMBERS_BYTES) }.with("results", results)
    }

    /// A success without results: the first reply of a stream that waits for changes.
    #[must_use]
    pub fn empty() -> Self {
        Self { status: None, members: Vec::new() }
    }

    /// Sets the HTTP status of this success, if it is not 200.
    #[must_use]
    pub fn with_status(mut self, status: u16) -> Self {
        self.status = Some(status);
        self
    }

    /// Adds a top-level field, such as `next`. The client receives it unchanged.
    ///
    /// # Errors
    /// Same as [`Reply::ok`].
    pub fn with<T: Serialize>(mut self, name: &'static str, value: T) -> Result<Self, Failure> {
        write_member(&mut self.members, name, &value)
            .map_err(|error| Failure::new(500, format!("the answer has no JSON form: {error}")))?;
        Ok(self)
    }
}

impl Failure {
    /// A failure with the matching HTTP status and a message that says what to do.
    pub fn new(errorcode: u16, errormessage: impl Into<String>) -> Self {
        Self { errorcode, errormessage: errormessage.into(), details: Vec::new() }
    }

    /// Adds a top-level field.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.details.push((name.to_owned(), value.into()));
        self
    }

    /// The request breaks a rule. The message names the field and the rule.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, message)
    }

    /// The requested resource does not exist.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(404, message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.errorcode, self.errormessage)
    }
}

impl std::error::Error for Failure {}

/// An answer with its key.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    /// The key of the request. A request without a key gets a reply without one.
    pub key: Option<&'a Key>,
    /// The success or the failure.
    pub outcome: &'a Result<Reply, Failure>,
    /// True if more replies with this key follow.
    pub more: bool,
}

impl Answer<'_> {
    /// The answer as a whole frame, delimiter included.
    ///
    /// # Errors
    /// Same as [`encode`](super::encode). A [`Reply`] or a [`Failure`] never causes one.
    pub fn encode(&self) -> serde_json::Result<Vec<u8>> {
        let members = self.outcome.as_ref().map_or(0, |reply| reply.members.len());
        let mut frame = Vec::with_capacity(members + USUAL_MEMBERS_BYTES);
        frame.push(b'{');
        if let Some(key) = self.key {
            frame.extend_from_slice(br#""key":"#);
            write_json(&mut frame, key)?;
            frame.push(b',');
        }
        match self.outcome {
            Ok(reply) => {
                frame.extend_from_slice(br#""errorcode":0,"errormessage":"success""#);
                if let Some(status) = reply.status {
                    write!(frame, r#","status":{status}"#).map_err(serde_json::Error::io)?;
                }
                frame.extend_from_slice(&reply.members);
            }
            Err(failure) => {
                write!(frame, r#""errorcode":{},"errormessage":"#, failure.errorcode)
                    .map_err(serde_json::Error::io)?;
                write_json(&mut frame, &failure.errormessage)?;
                for (name, value) in &failure.details {
                    write_member(&mut frame, name, value)?;
                }
            }
        }
        if self.more {
            frame.extend_from_slice(br#","more":true"#);
        }
        frame.push(b'}');
        frame.extend_from_slice(&DELIMITER);
        Ok(frame)
    }
}

/// Appends a member to an object that already has members.
fn write_member<T: Serialize>(buffer: &mut Vec<u8>, name: &str, value: &T) -> serde_json::Result<()> {
    buffer.push(b',');
    write_json(buffer, name)?;
    buffer.push(b':');
    write_json(buffer, value)
}
