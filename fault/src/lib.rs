//! What a panic leaves unsaid: the file at hand, and whether a reader catches it.
//!
//! Readers of other people's files stand on libraries that panic on some damaged ones. Such a
//! reader runs inside [`caught`], and its panic becomes an error like any other. Whatever else
//! panics is a fault of the program: its report names the file that [`reading`] announced.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

thread_local! {
    /// The files that this thread reads, the innermost last.
    static OPEN: RefCell<Vec<PathBuf>> = const { RefCell::new(Vec::new()) };
    /// Calls of [`caught`] that this thread is inside of.
    static CAUGHT: Cell<usize> = const { Cell::new(0) };
}

/// The file that any thread has read last.
static LAST: Mutex<Option<PathBuf>> = Mutex::new(None);

/// A file is being read until this is dropped.
#[derive(Debug)]
#[must_use = "the file is at hand for as long as this lives"]
pub struct Reading {
    /// Of the thread that made it.
    _local: std::marker::PhantomData<*const ()>,
}

/// Announces that a file is being read.
pub fn reading(path: &Path) -> Reading {
    OPEN.with_borrow_mut(|open| open.push(path.into()));
    *LAST.lock().unwrap_or_else(PoisonError::into_inner) = Some(path.into());
    Reading {
        _local: std::marker::PhantomData,
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        OPEN.with_borrow_mut(|open| drop(open.pop()));
    }
}

/// The file at hand where this thread stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AtHand {
    /// This thread reads the file.
    Reading(PathBuf),
    /// This thread reads none. The program has read this one last.
    ReadLast(PathBuf),
    /// Nothing has been read.
    Nothing,
}

/// The file at hand where this thread stands.
pub fn at_hand() -> AtHand {
    let open = OPEN.with_borrow(|open| open.last().cloned());
    let last = || {
        LAST.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
            .map_or(AtHand::Nothing, AtHand::ReadLast)
    };
    open.map_or_else(last, AtHand::Reading)
}

/// Whether a panic of this thread, now, becomes an error of a reader. A panic hook keeps silent
/// then.
pub fn is_caught() -> bool {
    CAUGHT.get() > 0
}

/// Runs a reader of a library that panics on some inputs.
///
/// # Errors
/// What the panic said.
pub fn caught<T>(read: impl FnOnce() -> T) -> Result<T, String> {
    /// Leaves also when the reader panics.
    struct Inside;
    impl Drop for Inside {
        fn drop(&mut self) {
            CAUGHT.set(CAUGHT.get() - 1);
        }
    }
    CAUGHT.set(CAUGHT.get() + 1);
    let inside = Inside;
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(read));
    drop(inside);
    outcome.map_err(|panic| message(&*panic).to_owned())
}

/// What a panic said.
pub fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caught_panic_says_what_it_said_and_leaves_the_file() {
        let outer = reading(Path::new("outer"));
        let error = caught(|| {
            let _inner = reading(Path::new("inner"));
            assert!(is_caught());
            assert_eq!(at_hand(), AtHand::Reading("inner".into()));
            let none: Vec<u32> = Vec::new();
            none[7]
        });
        assert!(error.unwrap_err().contains("index is 7"));
        assert!(!is_caught());
        assert_eq!(at_hand(), AtHand::Reading("outer".into()));
        drop(outer);
        assert!(matches!(at_hand(), AtHand::ReadLast(_)));
        assert_eq!(caught(|| 3), Ok(3));
        assert_eq!(caught(|| panic!("seven")), Err::<(), _>("seven".into()));
    }
}
