//! `cascade`: the command line of the recommendation engine.

mod causes;
mod commands;
mod http;
mod progress;
mod workspace;

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use clap::Parser;
use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// What the threads of LightGBM do while they wait for each other. They spin unless this says `passive`: beside other
/// work on the same cores that made training 13 times slower.
const OMP_WAIT_POLICY: &str = "OMP_WAIT_POLICY";

fn main() -> ExitCode {
    wait_without_spinning();
    end_quietly_without_a_reader();
    let arguments = commands::Arguments::parse();
    match commands::run(arguments) {
        Ok(outcome) => outcome.into(),
        Err(error) => {
            eprintln!("error: {error:#}");
            commands::exit_code(&error)
        }
    }
}

/// Starts this program anew with [`OMP_WAIT_POLICY`] set, which is read before `main` begins. If that fails, training is
/// slower and all else is the same.
fn wait_without_spinning() {
    if std::env::var_os(OMP_WAIT_POLICY).is_none()
        && let Ok(program) = std::env::current_exe()
    {
        let arguments = std::env::args_os().skip(1);
        let _ = Command::new(program).args(arguments).env(OMP_WAIT_POLICY, "passive").exec();
    }
}

/// Ends the process quietly where whoever read its output has gone away, as `head` does; any other panic is reported as
/// always.
fn end_quietly_without_a_reader() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let message = panic.payload_as_str().unwrap_or_default();
        if message.starts_with("failed printing to stdout") {
            std::process::exit(0);
        }
        report(panic);
    }));
}
