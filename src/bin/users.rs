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
}

fn main() -> ExitCode {
    process::run(USERS, |args: Args| users::service(&args.database)?.serve(&args.common, &args.join))
}
