//! What to look for after a switch: one sentence for each switch and program.

use crate::member::Program;
use crate::switch::{Fault, Switch};

/// How the system reacts if this program meets this switch.
pub fn expected(switch: &Switch, program: Program) -> &'static str {
    match switch {
        Switch::Freeze(_) => after_freeze(program),
        Switch::Continue(_) => after_continue(program),
        Switch::Kill(_) => after_kill(program),
        Switch::Stop(_) => after_stop(program),
        Switch::Restart(_) => after_restart(program),
        Switch::StartUsers => "it registers, and the gateway sends it a share of the requests",
        Switch::Disturb(_, Fault::Delay(_)) => {
            "its requests take longer; above the timeout of the gateway, the answer is 504"
        }
        Switch::Disturb(_, Fault::Drop(_)) => {
            "reads go to another instance after half of their timeout; without one, the answer is 504"
        }
        Switch::Disturb(_, Fault::Cut) => {
            "its link stays up, but its requests time out, and it is set aside after three failures"
        }
        Switch::Heal(_) => "the gateway has a direct link to it, and requests are fast again",
        Switch::Load(_) => "each switch shows in the requests per second, p50 and p99",
        Switch::Help => "the list of switches",
    }
}

fn after_freeze(program: Program) -> &'static str {
    match program {
        Program::Distributor => "requests still work, but no process can join",
        Program::Gateway => "every request waits until the gateway continues",
        _ => "its requests time out, reads go to another instance, and it is set aside after three failures",
    }
}

fn after_continue(program: Program) -> &'static str {
    match program {
        Program::Distributor => "processes that tried to join meanwhile appear",
        Program::Gateway => "it answers the requests that waited",
        _ => "its next answer in time ends the time aside",
    }
}

fn after_kill(program: Program) -> &'static str {
    match program {
        Program::Distributor => "requests still work, but no process can join before `restart distributor`",
        Program::Gateway => "no client can connect before `restart gateway`",
        _ => {
            "its link is down at once, no read fails if another instance runs, and a write in flight gets 502"
        }
    }
}

fn after_stop(program: Program) -> &'static str {
    match program {
        Program::Users => "it leaves after its last answer, and no request fails if another instance runs",
        other => after_kill(other),
    }
}

fn after_restart(program: Program) -> &'static str {
    match program {
        Program::Distributor => "every process registers again within 3 seconds",
        Program::Gateway => "it learns the routes from the distributor",
        _ => "the gateway has a new link to it",
    }
}
