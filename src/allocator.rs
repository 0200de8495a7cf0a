//! How the binaries' allocator is set up.

/// mimalloc's `mi_option_purge_delay`, which its Rust bindings do not name.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// Keeps freed pages instead of returning them to the system: a training step frees and takes again a gigabyte, and the kernel
/// zeroes every page that it hands out. Measured on BoolQ with SmolLM2-135M: 144 tokens/s without, 168 with.
pub fn keep_pages() {
    // SAFETY: sets one integer of mimalloc's options before any other thread runs; an unknown option is ignored.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, -1) }
}
