//! The input rules of the users service: every rule about a field, and the error for a field that breaks it.

use email_address::{EmailAddress, Options};
use serde_json::{Map, Value};

use super::passwords::Password;
use crate::packet::Failure;

/// The longest name, in characters.
const MAX_NAME_CHARS: usize = 100;

/// The longest e-mail address, in characters. RFC 5321 permits no longer address.
const MAX_EMAIL_CHARS: usize = 254;

/// The shortest and the longest password, in characters.
const PASSWORD_CHARS: std::ops::RangeInclusive<usize> = 8..=128;

/// The suffix of the entity tag of a user without its e-mail address.
pub const PUBLIC_TAG: &str = "-public";

/// How many users a list has by default, and at most.
const DEFAULT_LIMIT: i64 = 50;
const MAX_LIMIT: i64 = 500;

/// The arguments of one request.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a>(&'a Map<String, Value>);

impl<'a> Fields<'a> {
    /// The arguments, if all of them are `known`. The path parameter `params` is called `id` in the error.
    ///
    /// # Errors
    /// 400 that names the first unknown field.
    pub fn among(fields: &'a Map<String, Value>, known: &[&str]) -> Result<Self, Failure> {
        match fields.keys().find(|field| !known.contains(&field.as_str())) {
            None => Ok(Self(fields)),
            Some(field) if field == "params" => Err(Failure::bad_request("this route has no path parameter")),
            Some(field) => Err(Failure::bad_request(unknown_field(field, known))),
        }
    }

    /// Whether the request names one user, by path or by query.
    #[must_use]
    pub fn names_one(self) -> bool {
        self.0.contains_key("id") || self.0.contains_key("params")
    }

    /// The id of the user: the path parameter or `id`.
    ///
    /// # Errors
    /// 400 if there is none, if it is not a positive integer, or if the two differ.
    pub fn id(self) -> Result<i64, Failure> {
        let rule = || Failure::bad_request("id must be a positive integer, as in /users/1");
        let read = |name| self.0.get(name).map(|value| integer(value).filter(|id| *id > 0).ok_or_else(rule));
        match (read("params").transpose()?, read("id").transpose()?) {
            (Some(path), Some(query)) if path != query => {
                Err(Failure::bad_request("id must be the same in the path and in the query"))
            }
            (Some(id), _) | (None, Some(id)) => Ok(id),
            (None, None) => Err(Failure::bad_request("id is missing: name the user, as in /users/1")),
        }
    }

    /// How many users to list.
    ///
    /// # Errors
    /// 400 if it is out of range.
    pub fn limit(self) -> Result<usize, Failure> {
        let limit = self.0.get("limit").map_or(Some(DEFAULT_LIMIT), integer);
        limit
            .filter(|limit| (1..=MAX_LIMIT).contains(limit))
            .and_then(|limit| usize::try_from(limit).ok())
            .ok_or_else(|| Failure::bad_request(format!("limit must be an integer from 1 to {MAX_LIMIT}")))
    }

    /// The id after which a list begins.
    ///
    /// # Errors
    /// 400 if it is not an integer of at least 0.
    pub fn after(self) -> Result<i64, Failure> {
        let after = self.0.get("after").map_or(Some(0), integer);
        after.filter(|after| *after >= 0).ok_or_else(|| {
            Failure::bad_request("after must be an integer from 0 up, such as the next of the page before")
        })
    }

    /// The number of the change after which a feed begins, if one is named.
    ///
    /// # Errors
    /// 400 if it is not an integer of at least 0.
    pub fn change_after(self) -> Result<Option<u64>, Failure> {
        self.number("after")
    }

    /// The number of the change that a read must contain, if one is named.
    ///
    /// # Errors
    /// 400 if it is not an integer of at least 0.
    pub fn at_least(self) -> Result<Option<u64>, Failure> {
        self.number("at_least")
    }

    /// The versions from the entity tags of `If-Match`: the user must have one of them. `None` permits any version. A
    /// tag of another form matches no version.
    ///
    /// # Errors
    /// 400 if it is not text.
    pub fn if_match(self) -> Result<Option<Vec<u64>>, Failure> {
        let Some(tags) = self.text("if_match")? else { return Ok(None) };
        if tags.trim() == "*" {
            return Ok(None);
        }
        let version = |tag: &str| {
            let tag = tag.trim().trim_matches('"');
            tag.strip_suffix(PUBLIC_TAG).unwrap_or(tag).parse().ok()
        };
        Ok(Some(tags.split(',').filter_map(version).collect()))
    }

    /// Whether a field of this name exists.
    #[must_use]
    pub fn has(self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    fn number(self, name: &str) -> Result<Option<u64>, Failure> {
        let Some(value) = self.0.get(name) else { return Ok(None) };
        let number = integer(value).and_then(|number| u64::try_from(number).ok());
        number.map(Some).ok_or_else(|| {
            Failure::bad_request(format!("{name} must be an integer from 0 up, the seq of a change"))
        })
    }

    /// A required field.
    ///
    /// # Errors
    /// 400 that names the missing field.
    pub fn required<T>(value: Option<T>, name: &str) -> Result<T, Failure> {
        value.ok_or_else(|| Failure::bad_request(format!("{name} is missing")))
    }

    /// The name, if there is one.
    ///
    /// # Errors
    /// 400 if it breaks the rule.
    pub fn name(self) -> Result<Option<String>, Failure> {
        let Some(name) = self.text("name")? else { return Ok(None) };
        if name.trim().is_empty() || name.chars().count() > MAX_NAME_CHARS {
            return Err(Failure::bad_request(format!(
                "name must have 1 to {MAX_NAME_CHARS} characters, not all of them blank"
            )));
        }
        Ok(Some(name.to_owned()))
    }

    /// The e-mail address, if there is one.
    ///
    /// # Errors
    /// 400 if it breaks the rule.
    pub fn email(self) -> Result<Option<String>, Failure> {
        let Some(email) = self.text("email")? else { return Ok(None) };
        if email.is_empty() || email.chars().count() > MAX_EMAIL_CHARS {
            return Err(Failure::bad_request(format!("email must have 1 to {MAX_EMAIL_CHARS} characters")));
        }
        let options = Options::default().without_display_text().without_domain_literal();
        match EmailAddress::parse_with_options(email, options) {
            Ok(_) => Ok(Some(email.to_owned())),
            Err(_) => Err(Failure::bad_request("email must be an e-mail address, such as kim@example.com")),
        }
    }

    /// A new password, if there is one.
    ///
    /// # Errors
    /// 400 if it breaks the rule. The message never contains the password.
    pub fn new_password(self) -> Result<Option<Password>, Failure> {
        let Some(password) = self.text("password")? else { return Ok(None) };
        if !PASSWORD_CHARS.contains(&password.chars().count()) {
            let (least, most) = (PASSWORD_CHARS.start(), PASSWORD_CHARS.end());
            return Err(Failure::bad_request(format!("password must have {least} to {most} characters")));
        }
        Ok(Some(Password::new(password)))
    }

    /// The password of a login. The answer does not reveal whether it could be right. A password that is too long is
    /// not hashed.
    ///
    /// # Errors
    /// 400 if it is missing, not text, or too long.
    pub fn login_password(self) -> Result<Password, Failure> {
        let password = Self::required(self.text("password")?, "password")?;
        if password.chars().count() > *PASSWORD_CHARS.end() {
            let most = PASSWORD_CHARS.end();
            return Err(Failure::bad_request(format!("password must have at most {most} characters")));
        }
        Ok(Password::new(password))
    }

    /// The e-mail address of a login, in any form.
    ///
    /// # Errors
    /// 400 if it is missing, not text, or too long.
    pub fn login_email(self) -> Result<String, Failure> {
        let email = Self::required(self.text("email")?, "email")?;
        if email.is_empty() || email.chars().count() > MAX_EMAIL_CHARS {
            return Err(Failure::bad_request(format!("email must have 1 to {MAX_EMAIL_CHARS} characters")));
        }
        Ok(email.to_owned())
    }

    fn text(self, name: &str) -> Result<Option<&'a str>, Failure> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Failure::bad_request(format!("{name} must be text"))),
        }
    }
}

/// An integer as JSON or, from a path or a query, as decimal text.
fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
        _ => None,
    }
}

/// The error text for a field that the route does not know. A long name is cut.
fn unknown_field(field: &str, known: &[&str]) -> String {
    let field: String = field.chars().take(40).collect();
    let known: Vec<&str> = known.iter().copied().filter(|name| *name != "params").collect();
    if known.is_empty() {
        return format!("unknown field `{field}`; this route has no fields");
    }
    format!("unknown field `{field}`; expected one of: {}", known.join(", "))
}
