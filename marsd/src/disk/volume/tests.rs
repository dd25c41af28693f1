use super::*;

const MIB: u64 = 1 << 20;

struct Fixture {
    _dir: tempfile::TempDir,
    volume: Volume,
}

fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    File::create(&path).unwrap().set_len(4 * MIB).unwrap();
    let volume = Volume::open(&path, VolumeSize::new(4 * MIB).unwrap()).unwrap();
    Fixture { _dir: dir, volume }
}

fn range(start: u64, length: u64) -> SectorRange {
    SectorRange::from_bytes(start, length).unwrap()
}

#[test]
fn pieces_are_written_behind_one_another() {
    let Fixture { volume, _dir } = fixture();
    let pieces: Vec<Bytes> = (0..3000u32)
        .map(|n| Bytes::from(n.to_le_bytes().repeat(128)))
        .collect();
    let whole = range(4096, 3000 * 512);
    volume.write(whole, &pieces).unwrap();
    let expected: Vec<u8> = pieces.iter().flatten().copied().collect();
    assert_eq!(
        volume.read(whole).unwrap(),
        VolumeData::Data(Bytes::from(expected))
    );
    assert_eq!(
        volume.read(range(0, 4096)).unwrap(),
        VolumeData::Data(Bytes::from(vec![0; 4096]))
    );
}

#[test]
fn holes_are_zeroes_without_reading() {
    let Fixture { volume, _dir } = fixture();
    assert_eq!(volume.read(range(0, 4 * MIB)).unwrap(), VolumeData::Zeroes);
    volume
        .write(range(MIB, 512), &[Bytes::from(vec![1; 512])])
        .unwrap();
    assert!(matches!(
        volume.read(range(0, 2 * MIB)).unwrap(),
        VolumeData::Data(_)
    ));
    assert_eq!(volume.read(range(2 * MIB, MIB)).unwrap(), VolumeData::Zeroes);
    volume.clear(range(MIB, MIB)).unwrap();
    assert_eq!(volume.read(range(0, 2 * MIB)).unwrap(), VolumeData::Zeroes);
}

#[test]
fn zeroes_are_written_where_holes_cannot_be_made() {
    let Fixture { volume, _dir } = fixture();
    volume.punches.store(false, Ordering::Relaxed);
    volume
        .write(range(0, MIB), &[Bytes::from(vec![1; MIB as usize])])
        .unwrap();
    volume.clear(range(512, MIB - 1024)).unwrap();
    let VolumeData::Data(bytes) = volume.read(range(0, MIB)).unwrap() else {
        panic!("it holds data")
    };
    let zeroes = bytes.iter().filter(|&&b| b == 0).count();
    assert_eq!(zeroes as u64, MIB - 1024);
}

#[test]
fn status_tells_data_from_holes_without_gaps() {
    let Fixture { volume, _dir } = fixture();
    volume
        .write(range(MIB, MIB), &[Bytes::from(vec![1; MIB as usize])])
        .unwrap();
    let extents = volume.status(range(0, 4 * MIB)).unwrap();
    let shown: Vec<_> = extents
        .iter()
        .map(|e| (e.range.start.bytes(), e.range.len_bytes(), e.data))
        .collect();
    assert_eq!(
        shown,
        [(0, MIB, false), (MIB, MIB, true), (2 * MIB, 2 * MIB, false)]
    );
    let inside = volume.status(range(MIB + 512, 512)).unwrap();
    assert_eq!(
        inside,
        [BlockExtent {
            range: range(MIB + 512, 512),
            data: true
        }]
    );
}

#[test]
fn a_disk_is_checked_before_it_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let size = VolumeSize::new(8192).unwrap();
    let text = |path: &Path| {
        Volume::open(path, size)
            .err()
            .map(|e| e.to_string())
            .unwrap_or_default()
    };
    assert!(text(dir.path()).contains("neither a regular file nor a block device"));
    assert!(text(&dir.path().join("none")).contains("No such file"));
    let path = dir.path().join("disk");
    File::create(&path).unwrap().set_len(4096).unwrap();
    assert!(text(&path).contains("has 4096 bytes, the volume needs 8192"));
    File::create(&path).unwrap().set_len(8192).unwrap();
    let _held = Volume::open(&path, size).unwrap();
    assert!(text(&path).contains("in use by another marsd"));
}

#[test]
fn a_disk_grows_and_what_is_new_is_clear_whatever_was_there() {
    let size = |bytes| VolumeSize::new(bytes).unwrap();
    let Fixture { volume, _dir } = fixture();
    let data = Bytes::from(vec![7; 4096]);
    volume
        .write(range(MIB, 4096), std::slice::from_ref(&data))
        .unwrap();
    volume.write(range(3 * MIB, 4096), &[data]).unwrap();
    // The volume had two of the four mebibytes.
    volume.grow(size(2 * MIB), size(8 * MIB)).unwrap();
    assert_eq!(volume.file.metadata().unwrap().len(), 8 * MIB);
    assert_eq!(volume.read(range(2 * MIB, 6 * MIB)).unwrap(), VolumeData::Zeroes);
    assert!(matches!(volume.read(range(MIB, 4096)).unwrap(), VolumeData::Data(d) if d == vec![7; 4096]));
    // Asked again, and for less than there is.
    volume.grow(size(2 * MIB), size(4 * MIB)).unwrap();
    assert_eq!(volume.file.metadata().unwrap().len(), 8 * MIB);
}

/// A block device as long as the file, while it lives.
struct LoopDevice(PathBuf);

impl LoopDevice {
    /// `None` where this process may not make one.
    fn of(file: &Path) -> Option<LoopDevice> {
        let made = std::process::Command::new("losetup")
            .args(["--find", "--show"])
            .arg(file)
            .output()
            .ok()?;
        let path = String::from_utf8(made.stdout).ok()?;
        made.status.success().then(|| LoopDevice(path.trim().into()))
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = std::process::Command::new("losetup")
            .arg("--detach")
            .arg(&self.0)
            .status();
    }
}

#[test]
fn everything_on_a_block_device_counts_as_data() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(4 * MIB).unwrap();
    let Some(device) = LoopDevice::of(file.path()) else {
        eprintln!("not tried: this process may not make block devices");
        return;
    };
    let volume = Volume::open(&device.0, VolumeSize::new(4 * MIB).unwrap()).unwrap();
    let extent = BlockExtent {
        range: range(MIB, MIB),
        data: true,
    };
    assert_eq!(volume.status(range(MIB, MIB)).unwrap(), vec![extent]);
    let zeroes = VolumeData::Data(Bytes::from(vec![0; MIB as usize]));
    assert_eq!(volume.read(range(MIB, MIB)).unwrap(), zeroes);
    volume
        .write(range(0, 4096), &[Bytes::from(vec![7; 4096])])
        .unwrap();
    volume.clear(range(0, 4096)).unwrap();
    volume.flush().unwrap();
    assert_eq!(
        volume.read(range(0, 4096)).unwrap(),
        VolumeData::Data(Bytes::from(vec![0; 4096]))
    );
}
