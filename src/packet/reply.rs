//! Replies: successes and failures, and how they are written under the key of a request.

use std::fmt;
use std::io::Write;

use serde::Serialize;
use serde_json::Value;

use super::{DELIMITER, Key, write_json};

/// Room for the members of nearly every reply, in bytes.
const USUAL_MEMBERS_BYTES: usize = 224;

/// A success, before it is given its key.
#[derive(Debug)]
pub struct Reply {
    status: Option<u16>,
    /// Its own members as the frame will have them: a comma, a name, a colon and the value of each.
    members: Vec<u8>,
}

/// A failure, before it is given its key: what went wrong and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The HTTP status that fits.
    pub errorcode: u16,
    /// What happened and what to do.
    pub errormessage: String,
    /// Further top-level fields, for programs that read more than the code.
    pub details: Vec<(String, Value)>,
}

impl Reply {
    /// A success with these `results`.
    ///
    /// # Errors
    /// 500 if `results` has no JSON form, such as a map with keys that are no strings.
    pub fn ok<T: Serialize>(results: T) -> Result<Self, Failure> {
        Self { status: None, members: Vec::with_capacity(USUAL_MEMBERS_BYTES) }.with("results", results)
    }

    /// A success without results: the first reply of a stream that waits for news.
    #[must_use]
    pub fn empty() -> Self {
        Self { status: None, members: Vec::new() }
    }

    /// The HTTP status of this success, if it is not 200.
    #[must_use]
    pub fn with_status(mut self, status: u16) -> Self {
        self.status = Some(status);
        self
    }

    /// Adds a top-level field, such as `next`, which reaches the client as it is.
    ///
    /// # Errors
    /// As [`Reply::ok`].
    pub fn with<T: Serialize>(mut self, name: &'static str, value: T) -> Result<Self, Failure> {
        write_member(&mut self.members, name, &value)
            .map_err(|error| Failure::new(500, format!("the answer has no JSON form: {error}")))?;
        Ok(self)
    }
}

impl Failure {
    /// A failure with the HTTP status that fits, and words that say what to do.
    pub fn new(errorcode: u16, errormessage: impl Into<String>) -> Self {
        Self { errorcode, errormessage: errormessage.into(), details: Vec::new() }
    }

    /// Adds a top-level field.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.details.push((name.to_owned(), value.into()));
        self
    }

    /// The request breaks a rule: name the field and the rule.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, message)
    }

    /// What is asked for does not exist.
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

/// An answer under its key.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    /// The asker's key. A request without one gets a reply without one.
    pub key: Option<&'a Key>,
    /// The success or the failure.
    pub outcome: &'a Result<Reply, Failure>,
    /// Whether more replies with this key follow.
    pub more: bool,
}

impl Answer<'_> {
    /// The answer as a whole frame, delimiter included.
    ///
    /// # Errors
    /// As [`encode`], which no [`Reply`] and no [`Failure`] meets.
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

/// Appends one more member of an object that has others before it.
fn write_member<T: Serialize>(buffer: &mut Vec<u8>, name: &str, value: &T) -> serde_json::Result<()> {
    buffer.push(b',');
    write_json(buffer, name)?;
    buffer.push(b':');
    write_json(buffer, value)
}
