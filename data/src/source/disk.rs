//! Room on disks.

use std::path::Path;

use sysinfo::Disks;

/// Free space, in bytes, of the disk that holds a path; the path itself need not exist yet.
pub fn free_space(path: &Path) -> Option<u64> {
    let mut path = std::path::absolute(path).ok()?;
    while !path.exists() {
        path = path.parent()?.to_path_buf();
    }
    let path = path.canonicalize().ok()?;
    let disks = Disks::new_with_refreshed_list();
    let holding = disks
        .iter()
        .filter(|disk| path.starts_with(disk.mount_point()));
    let disk = holding.max_by_key(|disk| disk.mount_point().components().count())?;
    Some(disk.available_space())
}
