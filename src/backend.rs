//! Device names to Burn devices: the only file that names flex, ndarray, wgpu and cuda.

use std::path::Path;

use burn::tensor::Device;
use data::names::suggestion;

/// The values of `--device`.
pub const DEVICES: &str = "auto, cpu, ndarray, wgpu[:index], cuda[:index]";

/// The help of `--devices`.
pub const SEVERAL: &str = "Several devices that share every training step, such as cuda:0,cuda:1; \
    the first one evaluates";

/// A device that is compiled in and really there.
#[derive(Debug, Clone)]
pub struct NamedDevice {
    /// The device's name, as `--device` takes it.
    pub name: String,
    /// Burn's handle, without autodiff.
    pub device: Device,
}

impl NamedDevice {
    /// Whether it computes on the processor.
    pub fn is_cpu(&self) -> bool {
        matches!(self.name.as_str(), "cpu" | "ndarray")
    }
}

/// A name that stands for no device here, and what to do.
#[derive(Debug)]
pub struct DeviceError(String);

impl std::fmt::Display for DeviceError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for DeviceError {}

/// The device of a name, whatever its case; `auto` takes a GPU if one is there.
///
/// # Errors
/// An unknown name, a backend that is not compiled in, or a device that is not present. The error
/// says what to do.
pub fn find(name: &str) -> Result<NamedDevice, DeviceError> {
    let found = present(name)?;
    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    if !found.is_cpu() {
        crate::kernels::keep_for(&found.device);
    }
    Ok(found)
}

/// [`find`], the device unopened.
fn present(name: &str) -> Result<NamedDevice, DeviceError> {
    let refuse = |reason: String| Err(DeviceError(format!("--device {name}: {reason}")));
    let name = &*name.to_ascii_lowercase();
    if name == "auto" {
        let mut all = available();
        let gpu = all.iter().position(|d| d.name.starts_with("cuda"));
        return Ok(all.swap_remove(gpu.unwrap_or(0)));
    }
    let (kind, index) = match name.split_once(':') {
        Some((kind, index)) => match index.parse::<usize>() {
            Ok(index) => (kind, index),
            Err(_) => return refuse(format!("expected a number after the colon, got {index:?}")),
        },
        None => (name, 0),
    };
    let kind = if kind == "flex" { "cpu" } else { kind };
    let feature = match kind {
        "cpu" => None,
        "ndarray" => Some(cfg!(feature = "ndarray")),
        "wgpu" => Some(cfg!(feature = "wgpu")),
        "cuda" => Some(cfg!(feature = "cuda")),
        _ => {
            let known = ["auto", "cpu", "ndarray", "wgpu", "cuda"];
            let hint = suggestion(kind, known);
            return refuse(format!("expected one of {DEVICES}.{hint}"));
        }
    };
    if feature == Some(false) {
        return refuse(format!("not compiled in; build with `--features {kind}`"));
    }
    let of_kind: Vec<NamedDevice> = available()
        .into_iter()
        .filter(|d| d.name.split(':').next() == Some(kind))
        .collect();
    let present = of_kind.len();
    match of_kind.into_iter().nth(index) {
        Some(device) => Ok(device),
        None => refuse(format!(
            "{present} such device(s) found on this machine; `--device cpu` always works"
        )),
    }
}

/// The backends that are compiled in, by their names in `--device`, but for the processor's own.
pub fn compiled() -> Vec<&'static str> {
    [
        ("ndarray", cfg!(feature = "ndarray")),
        ("wgpu", cfg!(feature = "wgpu")),
        ("cuda", cfg!(feature = "cuda")),
    ]
    .into_iter()
    .filter_map(|(name, there)| there.then_some(name))
    .collect()
}

/// What to do about an NVIDIA card that is there and not among `devices`; none if all is well.
pub fn unused_card(devices: &[String]) -> Option<&'static str> {
    let present = ["/dev/nvidia0", "/dev/dxg"]
        .iter()
        .any(|path| Path::new(path).exists());
    if !present || devices.iter().any(|name| name.starts_with("cuda")) {
        return None;
    }
    Some(match cfg!(feature = "cuda") {
        true => {
            "the driver does not answer: see whether nvidia-smi works, and CUDA_VISIBLE_DEVICES"
        }
        false => "build with --features cuda",
    })
}

/// Makes the processor the place of what Burn places by itself, such as an optimizer's record on
/// resume: its own choice may be a GPU that is compiled in but not there. Each tensor of such a
/// record moves to its parameter's device at the next step, whatever that device is.
///
/// Call it first in `main`: it changes the environment, which no other thread may read meanwhile.
pub fn set_default() {
    const NAME: &str = "BURN_DEVICE";
    if std::env::var_os(NAME).is_none() {
        // SAFETY: no other thread runs yet.
        unsafe { std::env::set_var(NAME, "flex") }
    }
}

/// Every compiled backend's devices that are really there, the processor first.
pub fn available() -> Vec<NamedDevice> {
    let mut found = vec![NamedDevice {
        name: "cpu".into(),
        device: Device::flex(),
    }];
    ndarray(&mut found);
    if crate::kernels::settle() {
        wgpu(&mut found);
        cuda(&mut found);
    }
    found
}

#[cfg(feature = "ndarray")]
fn ndarray(found: &mut Vec<NamedDevice>) {
    // Deprecated upstream in favour of flex; the design asks for it as a second opinion.
    #[expect(deprecated)]
    let device = Device::ndarray();
    found.push(NamedDevice {
        name: "ndarray".into(),
        device,
    });
}

#[cfg(not(feature = "ndarray"))]
fn ndarray(_: &mut Vec<NamedDevice>) {}

/// WGSL, never SPIR-V: Burn's `vulkan` computes wrong values on software Vulkan.
#[cfg(feature = "wgpu")]
fn wgpu(found: &mut Vec<NamedDevice>) {
    use burn::tensor::DeviceType;
    let devices = Device::enumerate(DeviceType::Wgpu).into_vec();
    found.extend(numbered("wgpu", devices));
}

#[cfg(not(feature = "wgpu"))]
fn wgpu(_: &mut Vec<NamedDevice>) {}

#[cfg(feature = "cuda")]
fn cuda(found: &mut Vec<NamedDevice>) {
    use burn::tensor::DeviceType;
    let devices = Device::enumerate(DeviceType::Cuda).into_vec();
    found.extend(numbered("cuda", devices));
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: &mut Vec<NamedDevice>) {}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn numbered(kind: &str, devices: Vec<Device>) -> Vec<NamedDevice> {
    devices
        .into_iter()
        .enumerate()
        .map(|(index, device)| NamedDevice {
            name: format!("{kind}:{index}"),
            device,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_that_cannot_serve_are_refused_with_the_reason() {
        let message = |name: &str| find(name).unwrap_err().to_string();
        assert!(message("gpu").contains("expected one of auto, cpu"));
        assert!(message("cdua").contains("Did you mean `cuda`?"));
        assert!(message("cuda:x").contains("expected a number"));
        assert!(message("cpu:1").contains("1 such device(s) found"));
        if !cfg!(feature = "cuda") {
            assert!(message("cuda").contains("--features cuda"));
        }
        assert_eq!(find("Flex").unwrap().name, "cpu");
        assert_eq!(find("CPU").unwrap().name, "cpu");
    }
}
