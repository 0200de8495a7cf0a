//! Counts the memory that a thread takes, for tests that bound it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator with a count for each thread.
pub(crate) struct Counting;

thread_local! {
    /// Bytes that this thread has taken and not given back, while it counts.
    static HELD: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
    static COUNTS: Cell<bool> = const { Cell::new(false) };
}

fn add(bytes: isize) {
    if COUNTS.get() {
        HELD.set(HELD.get() + bytes);
        MOST.set(MOST.get().max(HELD.get()));
    }
}

// SAFETY: every call goes to the system's allocator as it came; the counters are plain cells,
// which take no memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size() as isize);
        // SAFETY: as promised to us.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size() as isize);
        // SAFETY: as promised to us.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        add(size as isize - layout.size() as isize);
        // SAFETY: as promised to us.
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        add(-(layout.size() as isize));
        // SAFETY: as promised to us.
        unsafe { System.dealloc(old, layout) }
    }
}

/// The result of a computation, and the bytes that this thread held at most beyond those before.
pub(crate) fn most_bytes<T>(compute: impl FnOnce() -> T) -> (T, usize) {
    HELD.set(0);
    MOST.set(0);
    COUNTS.set(true);
    let result = compute();
    COUNTS.set(false);
    (result, MOST.get().max(0) as usize)
}

/// The result of a computation, and the bytes that it left taken on this thread.
pub(crate) fn bytes_held<T>(compute: impl FnOnce() -> T) -> (T, usize) {
    HELD.set(0);
    COUNTS.set(true);
    let result = compute();
    COUNTS.set(false);
    (result, HELD.get().max(0) as usize)
}
