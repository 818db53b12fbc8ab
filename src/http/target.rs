//! The target of a request: its path and its query.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use super::request::RequestError;

/// The target of a request, split into its parts.
#[derive(Debug)]
pub struct Target<'a> {
    /// The path, percent-decoded. A `/` inside a segment stays `%2F`, since a route cannot contain one.
    pub path: Cow<'a, str>,
    /// The query as the client sent it.
    pub query: &'a str,
    raw_path: &'a str,
}

impl<'a> Target<'a> {
    /// Splits the target of a request. The error is a 400: the target is not a path, or a percent code is invalid.
    pub fn parse(target: &'a str) -> Result<Self, RequestError> {
        let (raw_path, query) = target.split_once('?').unwrap_or((target, ""));
        let raw_path = without_authority(raw_path);
        if !raw_path.starts_with('/') {
            return Err(RequestError::bad_request("the path must begin with /"));
        }
        percent_decode(query)?;
        if !raw_path.contains('%') {
            return Ok(Self { path: Cow::Borrowed(raw_path), query, raw_path });
        }
        let segments: Result<Vec<String>, RequestError> =
            raw_path.split('/').map(|segment| Ok(percent_decode(segment)?.replace('/', "%2F"))).collect();
        Ok(Self { path: Cow::Owned(segments?.join("/")), query, raw_path })
    }

    /// The last segment of the path, percent-decoded. The error is that of [`Target::parse`].
    pub fn last_segment(&self) -> Result<Cow<'a, str>, RequestError> {
        percent_decode(self.raw_path.rsplit('/').next().unwrap_or_default())
    }
}

/// A client that treats this server as a proxy sends a whole URL. Only its path counts.
fn without_authority(target: &str) -> &str {
    match target.strip_prefix("http://") {
        Some(rest) => rest.find('/').map_or("/", |slash| &rest[slash..]),
        None => target,
    }
}

/// Decodes percent codes. The error is a 400: a code is invalid, or the result is not UTF-8.
pub fn percent_decode(text: &str) -> Result<Cow<'_, str>, RequestError> {
    let mut codes = text.split('%');
    codes.next();
    let is_code = |code: &str| code.len() >= 2 && code.as_bytes()[..2].iter().all(u8::is_ascii_hexdigit);
    if !codes.all(is_code) {
        let message =
            "each % in the URL or form must be followed by two hexadecimal digits; write %25 for a %";
        return Err(RequestError::bad_request(message));
    }
    percent_decode_str(text).decode_utf8().map_err(|_| {
        RequestError::bad_request("the percent codes in the URL or form are not UTF-8; encode text as UTF-8")
    })
}

#[cfg(test)]
mod tests;
