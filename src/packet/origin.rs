//! The origin of a request: who sent it to the gateway.

use std::fmt;
use std::net::IpAddr;

use serde::Serialize;

use super::Head;

/// The origin of a request: the gateway's facts about the HTTP client, for every service that handles the request.
#[derive(Clone, Default, PartialEq, Eq, Serialize)]
pub struct Origin {
    /// The id of the request in the logs of all processes.
    pub request_id: String,
    /// The client's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<IpAddr>,
    /// The client's `Authorization` header as received. It is a secret, so `Debug` does not print it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authorization: Option<String>,
}

impl Origin {
    /// The origin that the sender of this packet states, if any.
    #[must_use]
    pub fn of(head: &Head<'_>) -> Option<Self> {
        let request_id = head.request_id.as_deref()?.to_owned();
        let client = head.client.as_deref().and_then(|client| client.parse().ok());
        let authorization = head.authorization.as_deref().map(str::to_owned);
        Some(Self { request_id, client, authorization })
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origin")
            .field("request_id", &self.request_id)
            .field("client", &self.client)
            .field("authorized", &self.authorization.is_some())
            .finish()
    }
}
