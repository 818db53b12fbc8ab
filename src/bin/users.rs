//! `users`: the example service, on a real SQLite database.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use pilcrow::process::{self, Common, Join};
use pilcrow::users::{self, USERS, UsersSettings, admin};

/// Pilcrow's example service: users, with passwords and logins, in an SQLite database.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    join: Join,

    /// The database file; created if it does not exist. Several users processes may share one
    #[arg(long, env = "USERS_DATABASE", value_name = "FILE", default_value = "data/users.db")]
    database: PathBuf,

    /// How many changes the feed keeps for subscribers that come back
    #[arg(long, env = "USERS_KEEP_CHANGES", value_name = "N", default_value_t = 100_000)]
    keep_changes: u64,

    /// How long a login token is valid, in seconds
    #[arg(long, env = "USERS_TOKEN_TTL", value_name = "SECONDS", default_value_t = 24 * 60 * 60)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=MAX_TOKEN_SECONDS))]
    token_ttl: u64,

    /// Make the user with this e-mail address an admin, and exit. A user that does not exist is created; its password
    /// is the first line of stdin
    #[arg(long, value_name = "EMAIL")]
    admin: Option<String>,
}

/// A token that is valid for longer than a year would be like a second password.
const MAX_TOKEN_SECONDS: u64 = 366 * 24 * 60 * 60;

fn main() -> ExitCode {
    process::run(USERS, |args: Args| match &args.admin {
        Some(email) => make_admin(&args.database, email),
        None => users::service(&args.database, args.settings())?.serve(&args.common, &args.join),
    })
}

fn make_admin(database: &Path, email: &str) -> Result<(), String> {
    let done = admin::make(database, email)?;
    // A closed stdout is not a failure: the work is done.
    let _ = writeln!(io::stdout(), "{done}");
    Ok(())
}

impl Args {
    fn settings(&self) -> UsersSettings {
        let Self { keep_changes, token_ttl: token_seconds, .. } = *self;
        UsersSettings { keep_changes, token_seconds, secured: self.common.secured() }
    }
}
