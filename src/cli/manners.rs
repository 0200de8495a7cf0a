//! How much the program says, and whether in colour: the flags of every verb.

use std::ffi::OsString;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use clap::{Args, ColorChoice, ValueEnum};
use train::dashboard::terminal;

/// Flags of every verb.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Manners {
    /// Results and errors alone: no notes, no progress
    #[arg(
        short,
        long,
        global = true,
        conflicts_with = "verbose",
        help_heading = "Everywhere"
    )]
    quiet: bool,
    /// Say more of what is done; -vv still more, -vvv everything. RUST_LOG says it module by module
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Everywhere")]
    verbose: u8,
    /// When to use colours
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        default_value = "auto",
        ignore_case = true,
        help_heading = "Everywhere"
    )]
    color: When,
}

/// The values of `--color`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum When {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Everywhere
    Always,
    /// Nowhere
    Never,
}

static QUIET: AtomicBool = AtomicBool::new(false);
static VERBOSE: AtomicU8 = AtomicU8::new(0);
/// 0: as the terminal allows; 1: always; 2: never.
static COLOR: AtomicU8 = AtomicU8::new(0);

impl Manners {
    /// From here on the program has them.
    pub(super) fn adopt(self) {
        QUIET.store(self.quiet, Ordering::Relaxed);
        VERBOSE.store(self.verbose, Ordering::Relaxed);
        COLOR.store(self.color as u8, Ordering::Relaxed);
        match self.color {
            When::Auto => {}
            When::Always => terminal::colours(true),
            When::Never => terminal::colours(false),
        }
    }
}

/// Whether notes and progress are left out.
pub(super) fn quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// What is logged, in the words of `RUST_LOG`; none where no flag says it.
pub(super) fn level() -> Option<&'static str> {
    match (quiet(), VERBOSE.load(Ordering::Relaxed)) {
        (true, _) => Some("error"),
        (false, 0) => None,
        (false, 1) => Some("info"),
        (false, 2) => Some("debug"),
        (false, _) => Some("trace"),
    }
}

/// Whether colours were asked for or forbidden.
pub(super) fn color() -> Option<bool> {
    match COLOR.load(Ordering::Relaxed) {
        1 => Some(true),
        2 => Some(false),
        _ => None,
    }
}

/// What the words of a command say of colours, before they are parsed: for help and its errors.
pub(super) fn help_color(words: impl Iterator<Item = OsString>) -> ColorChoice {
    let words: Vec<String> = words
        .map(|word| word.to_string_lossy().to_ascii_lowercase())
        .collect();
    let place = words.iter().position(|word| word == "--color");
    let after = place.and_then(|place| words.get(place + 1).cloned());
    let joined = words.iter().find_map(|word| word.strip_prefix("--color="));
    match joined.or(after.as_deref()) {
        Some("always") => ColorChoice::Always,
        Some("never") => ColorChoice::Never,
        _ => ColorChoice::Auto,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_of_help_follow_the_flag() {
        let of = |line: &str| help_color(line.split(' ').map(OsString::from));
        assert_eq!(of("uq4ct --color never runs"), ColorChoice::Never);
        assert_eq!(of("uq4ct runs --color=ALWAYS --help"), ColorChoice::Always);
        assert_eq!(of("uq4ct runs"), ColorChoice::Auto);
    }
}
