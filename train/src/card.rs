//! Memory of NVIDIA's graphics cards, asked of their driver (NVML), which is loaded where there is
//! one.

use std::sync::{Mutex, PoisonError};

use burn::tensor::Device;
use nvml_wrapper::Nvml;
use nvml_wrapper::enums::device::UsedGpuMemory;

/// Memory of a graphics card, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CardMemory {
    /// In use.
    pub used: u64,
    /// There.
    pub total: u64,
}

/// The driver, where the run computes on a card and there is a driver.
pub(crate) struct Cards(Option<Nvml>);

impl Cards {
    /// Asks for the driver, unless `device` is a processor's.
    pub(crate) fn of(device: &str) -> Self {
        let on_card = ["cuda", "wgpu"].iter().any(|kind| device.starts_with(kind));
        Self(on_card.then(|| Nvml::init().ok()).flatten())
    }

    /// What this process uses, and what its cards have; where the driver does not tell processes
    /// apart, what is in use on all cards.
    pub(crate) fn memory(&self) -> Option<CardMemory> {
        let driver = self.0.as_ref()?;
        let (mut own, mut all) = ([0; 2], [0; 2]);
        for index in 0..driver.device_count().ok()? {
            let card = driver.device_by_index(index).ok()?;
            let memory = card.memory_info().ok()?;
            all = [all[0] + memory.used, all[1] + memory.total];
            let used = card.running_compute_processes().unwrap_or_default();
            let used = used.iter().filter(|found| found.pid == std::process::id());
            for found in used {
                if let UsedGpuMemory::Used(bytes) = found.used_gpu_memory {
                    own = [own[0] + bytes, own[1] + memory.total];
                }
            }
        }
        let [used, total] = if own[0] > 0 { own } else { all };
        (total > 0).then_some(CardMemory { used, total })
    }
}

/// The cards behind devices, by their addresses on the bus.
static KNOWN: Mutex<Vec<(Device, String)>> = Mutex::new(Vec::new());

/// Remembers which card is behind a device: its address on the PCI bus, such as `0000:3b:00.0`.
pub fn remember(device: &Device, address: String) {
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    known.retain(|(other, _)| other != device);
    known.push((device.clone(), address));
}

/// Bytes that are free on the card behind a device. None where no card is known to be behind it,
/// or where its driver does not say.
pub fn free_memory(device: &Device) -> Option<u64> {
    let known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let (_, address) = known.iter().find(|(other, _)| other == device)?;
    let driver = Nvml::init().ok()?;
    let card = driver.device_by_pci_bus_id(address.as_str()).ok()?;
    Some(card.memory_info().ok()?.free)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_has_no_card_and_no_driver_is_no_error() {
        assert_eq!(Cards::of("cpu").memory(), None);
        // Whatever there is here: it answers.
        if let Some(found) = Cards::of("cuda:0").memory() {
            assert!(found.used <= found.total);
        }
        assert_eq!(free_memory(&Device::flex()), None);
        remember(&Device::flex(), "no address".into());
        assert_eq!(free_memory(&Device::flex()), None);
    }
}
