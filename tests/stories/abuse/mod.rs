//! What somebody does who means harm, or has gone wrong: and what all others notice of it, which is nothing.
//!
//! | file | what it shows |
//! | --- | --- |
//! | [`registration`] | nobody takes a route, an address or the gateway's own names from who has them |
//! | [`packets`] | bad packets at every port, by the thousand |
//! | [`requests`] | HTTP requests that could be read in two ways, and paths that could mean two things |
//! | [`slow`] | thousands of clients that write or read a byte now and then |
//! | [`overload`] | more requests than there is room for |

mod overload;
mod packets;
mod registration;
mod requests;
#[cfg(target_os = "linux")]
mod slow;
