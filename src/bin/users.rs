//! `users`: the example service, on a real SQLite database.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use pilcrow::process::{self, Common, Join};
use pilcrow::users::{self, USERS};

/// Pilcrow's example service: users, with passwords and logins, in an SQLite database.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    join: Join,

    /// The database file; made if it is not there. Several users processes may share one
    #[arg(long, env = "USERS_DATABASE", value_name = "FILE", default_value = "data/users.db")]
    database: PathBuf,

    /// How many changes the feed keeps for those who come back
    #[arg(long, env = "USERS_KEEP_CHANGES", value_name = "N", default_value_t = 100_000)]
    keep_changes: u64,
}

fn main() -> ExitCode {
    process::run(USERS, |args: Args| {
        users::service(&args.database, args.keep_changes)?.serve(&args.common, &args.join)
    })
}
