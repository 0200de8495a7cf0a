//! The binaries' allocator, and how it is set up.

// glibc's own where there is one: it holds large tensors without rounding their sizes. A training
// step takes a sixth less memory than with mimalloc, at the same speed. Elsewhere mimalloc.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub use mimalloc::MiMalloc as Allocator;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub use std::alloc::System as Allocator;

/// Keeps freed memory instead of returning it to the system: a training step frees and takes again
/// a gigabyte, and the kernel zeroes every page that it hands out. Left alone, glibc maps each
/// large tensor anew (a row norm took 7 times as long). Threads other than the first give wholly
/// free heaps of 64 MiB back even so. Training and evaluation run on the first.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn keep_pages() {
    // SAFETY: sets two of the allocator's parameters before any other thread runs. One that is
    // refused changes nothing.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        // Documented as "never", where the largest c_int would mean 2 GB.
        libc::mallopt(libc::M_TRIM_THRESHOLD, -1);
    }
}

/// Keeps freed memory instead of returning it to the system: a training step frees and takes again
/// a gigabyte, and the kernel zeroes every page that it hands out.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn keep_pages() {
    /// mimalloc's `mi_option_purge_delay`, which its Rust bindings do not name.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    // SAFETY: sets one integer of mimalloc's options before any other thread runs. An unknown
    // option is ignored.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, -1) }
}
