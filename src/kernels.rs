//! Kernels that Burn's GPU backends compile and tune: where they are kept for the next process, and
//! how many this one had to make.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::FilterFn;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// Under which names CubeCL says that it compiled a kernel, and that it tuned one.
const SOURCES: [&str; 2] = ["cubecl::compilation", "cubecl::autotune"];

/// What was made so far, in the order of [`SOURCES`].
static MADE: [AtomicUsize; 2] = [AtomicUsize::new(0), AtomicUsize::new(0)];

/// What this process has compiled and tuned so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Made {
    /// Kernels that were compiled.
    pub compiled: usize,
    /// Kinds and sizes of work for which the fastest kernel was sought.
    pub tuned: usize,
}

impl Made {
    /// Up to now. CubeCL tells on a thread of its own, a moment later.
    pub fn so_far() -> Self {
        let [compiled, tuned] = [0, 1].map(|i| MADE[i].load(Ordering::Relaxed));
        Self { compiled, tuned }
    }

    /// Up to now, with what was made up to this call.
    pub fn settled() -> Self {
        let mut before = Self::so_far();
        loop {
            std::thread::sleep(Duration::from_millis(100));
            let now = Self::so_far();
            if now == before {
                return now;
            }
            before = now;
        }
    }
}

impl std::ops::Sub for Made {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            compiled: self.compiled - earlier.compiled,
            tuned: self.tuned - earlier.tuned,
        }
    }
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { compiled, tuned } = self;
        write!(f, "{compiled} kernels compiled, {tuned} choices tuned")
    }
}

/// The part of the log that counts what is made.
pub fn counter<S>() -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let told = FilterFn::new(|event| SOURCES.iter().any(|name| *name == event.target()));
    Counter.with_filter(told.with_max_level_hint(LevelFilter::INFO))
}

struct Counter;

impl<S: Subscriber> Layer<S> for Counter {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        /// Who speaks, where the event came from the `log` crate.
        #[derive(Default)]
        struct Source(Option<usize>);
        impl Visit for Source {
            fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
            fn record_str(&mut self, field: &Field, value: &str) {
                if field.name() == "log.target" {
                    self.0 = SOURCES.iter().position(|name| *name == value);
                }
            }
        }
        let mut source = Source::default();
        event.record(&mut source);
        if let Some(source) = source.0 {
            MADE[source].fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Says to `say`, every few seconds, what has been made since it last did, until it is dropped.
pub(crate) struct Told {
    end: std::sync::mpsc::Sender<()>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Told {
    /// Starts. Where nothing is made, nothing is said.
    pub(crate) fn start(say: impl Fn(String) + Send + 'static) -> Self {
        const EVERY: Duration = Duration::from_secs(5);
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            let mut said = Made::so_far();
            while ended.recv_timeout(EVERY) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                let now = Made::so_far();
                if now != said {
                    say(format!("{now} so far"));
                    said = now;
                }
            }
        });
        Self {
            end,
            thread: Some(thread),
        }
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        let _ = self.end.send(());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Where CUDA's kernels are kept: a file for each kind of card, so that one card's choices never
/// serve another. What wgpu compiles is kept nowhere.
#[cfg(any(feature = "wgpu", feature = "cuda"))]
pub fn place() -> std::path::PathBuf {
    data::source::Finder::from_env().cache_dir.join("kernels")
}

/// Settles how CubeCL keeps and tells of kernels, before it is first asked for a device: it reads
/// its settings once. `CUBECL_*` in the environment have the last word; `cubecl.toml` has none.
/// Whether cards may be used: not where wrong gradients could not be kept out.
#[cfg(any(feature = "wgpu", feature = "cuda"))]
pub(crate) fn settle() -> bool {
    static RIGHT: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *RIGHT.get_or_init(|| {
        settle_cubecl();
        limit_fusion()
    })
}

/// Where no backend for cards is compiled in there is nothing to settle.
#[cfg(not(any(feature = "wgpu", feature = "cuda")))]
pub(crate) fn settle() -> bool {
    true
}

/// Of what Burn fuses, that which computes wrong values: products of matrices with what follows
/// them. In placement `ffn` a gradient of a layer below the last was off by a tenth on software
/// Vulkan; without it every value and gradient is right (`parity::`, `forms::`).
#[cfg(all(feature = "fusion", any(feature = "wgpu", feature = "cuda")))]
const NOT_FUSED: &str = "Matmul";

#[cfg(all(feature = "fusion", any(feature = "wgpu", feature = "cuda")))]
fn limit_fusion() -> bool {
    use burn_cubecl::fusion::{BUILTIN_NAMES, remove};
    // Burn takes the removal of a name that it does not know for granted.
    if !BUILTIN_NAMES.contains(&NOT_FUSED) {
        tracing::error!("no card is used: Burn knows no fusion {NOT_FUSED:?} to leave out");
        return false;
    }
    match remove(NOT_FUSED) {
        Ok(()) => true,
        Err(error) => {
            tracing::error!("no card is used: {error}");
            false
        }
    }
}

#[cfg(all(not(feature = "fusion"), any(feature = "wgpu", feature = "cuda")))]
fn limit_fusion() -> bool {
    true
}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn settle_cubecl() {
    use burn::cubecl::config::autotune::AutotuneLogLevel;
    use burn::cubecl::config::cache::CacheConfig;
    use burn::cubecl::config::compilation::CompilationLogLevel;
    use burn::cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};

    // By its name: without CubeCL's persistence, as with `wgpu` alone, there is no such setting.
    let kept = serde_json::json!({"compilation": {"cache": true}});
    let mut config: CubeClRuntimeConfig = serde_json::from_value(kept).unwrap_or_default();
    config.environment.path = CacheConfig::Directory(place());
    let mut config = config.override_from_env();
    // After the environment's, which may ask for more than names.
    if matches!(
        config.compilation.logger.level,
        CompilationLogLevel::Disabled
    ) {
        config.compilation.logger.level = CompilationLogLevel::Basic;
    }
    if matches!(config.autotune.logger.level, AutotuneLogLevel::Disabled) {
        config.autotune.logger.level = AutotuneLogLevel::Minimal;
    }
    config.compilation.logger.log = Some(Default::default());
    config.autotune.logger.log = Some(Default::default());
    if !CubeClRuntimeConfig::try_set(config) {
        tracing::warn!("the settings of CubeCL were read before the program's own");
    }
}

/// Keeps the kernels of a device in the file of its kind of card, and remembers its card. Opens the
/// device.
#[cfg(any(feature = "wgpu", feature = "cuda"))]
pub(crate) fn keep_for(device: &burn::tensor::Device) {
    let Some(identity) = device.identity() else {
        return;
    };
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let name: String = identity.name.chars().map(plain).collect();
    if std::env::var_os("CUBECL_ENVIRONMENT").is_none() {
        burn::cubecl::environment::activate(name.to_lowercase());
    }
    if let Some(address) = identity.physical.and_then(|card| card.pci_address) {
        train::card::remember(device, address.to_string());
    }
}
