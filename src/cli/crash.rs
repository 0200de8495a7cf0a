//! A panic as one line for its user, and an exit code of its own.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::{AssertUnwindSafe, PanicHookInfo};
use std::process::ExitCode;

use fault::AtHand;

use super::process::complain;

/// Exit code of a fault in the program itself, `EX_SOFTWARE` of sysexits.h.
pub const FAULT: u8 = 70;

/// Runs the program. A panic, on whatever thread, is one line on standard error that names the
/// file at hand; where it reaches the first thread, the program ends with [`FAULT`].
/// `RUST_BACKTRACE=1` adds the way to its place.
pub fn guarded(program: impl FnOnce() -> ExitCode) -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        // A reader makes an error of it.
        if fault::is_caught() {
            return;
        }
        // A panic while it is told would end the program without its code.
        complain(line(panic));
        let way = Backtrace::capture();
        if way.status() == BacktraceStatus::Captured {
            complain(way);
        }
    }));
    std::panic::catch_unwind(AssertUnwindSafe(program)).unwrap_or_else(|_| ExitCode::from(FAULT))
}

fn line(panic: &PanicHookInfo) -> String {
    let said: String = fault::message(panic.payload())
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .chars()
        .take(300)
        .collect();
    let place = panic.location().map(|place| format!(", {place}"));
    let file = match fault::at_hand() {
        AtHand::Reading(path) => format!(", while {} was read", path.display()),
        AtHand::ReadLast(path) => format!(", after {} was read", path.display()),
        AtHand::Nothing => String::new(),
    };
    format!(
        "error: uq4ct {} has a fault ({said}{}){file}. Please report this line, your command and any \
         file it names to whoever gave you the program; RUST_BACKTRACE=1 adds detail",
        env!("CARGO_PKG_VERSION"),
        place.unwrap_or_default(),
    )
}
