//! Attacks and broken clients. No other client notices them.
//!
//! | file | tests |
//! | --- | --- |
//! | [`registration`] | no process takes a route, an address or the gateway's own names from their owner |
//! | [`packets`] | bad packets at every port, by the thousand |
//! | [`requests`] | HTTP requests that could be read in two ways, and paths that could mean two things |
//! | [`slow`] | thousands of clients that write or read a byte now and then |
//! | [`overload`] | more requests than the limits allow |

mod overload;
mod packets;
mod registration;
mod requests;
#[cfg(target_os = "linux")]
mod slow;
