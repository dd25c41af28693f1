//! What does a front end say before and between requests? The messages of vhost-user, turned into queues.
//!
//! The `vhost` crate decodes and answers; what it decoded is checked here. An error drops the front end, which may connect
//! again. Source: the vhost-user specification of QEMU.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, warn};
use vhost::VhostUserMemoryRegionBase;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig, VhostUserSharedMsg,
    VhostUserSingleMemoryRegion, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{Backend, Error, GpuBackend, Result, VhostUserBackendReqHandlerMut};

use super::Context;
use super::dirty::DirtyLog;
use super::inflight::Inflight;
use super::memory::{Memory, Region};
use super::queue::{Back, Logging, Queue, Start};
use super::ring::{Addresses, Ring, SIZE_MAX};
use super::space::{Features, QUEUES_MAX, configuration};
use super::tally::Tally;

/// Regions of memory that a front end may share: slots of memory that can be plugged, and a few more.
const REGIONS_MAX: usize = 64;

/// Time that answers may take when a front end stops a queue; it does nothing else meanwhile, not even its monitor.
const DRAIN_MAX: Duration = Duration::from_secs(30);

/// What `readlink` says of an eventfd: reading or writing anything else could hold us up for ever.
const EVENTFD: &str = "anon_inode:[eventfd]";

/// What a front end said about one queue.
#[derive(Default)]
struct Told {
    size: u16,
    addresses: Addresses,
    /// Whether what is written to its used ring is to be marked in a dirty log.
    log_used: bool,
    base: u16,
    kick: Option<File>,
    call: Option<Arc<File>>,
    /// Told when the queue breaks.
    error: Option<Arc<File>>,
    enabled: bool,
    queue: Option<Queue>,
}

/// One front end's device.
pub struct Device {
    context: Arc<Context>,
    tally: Arc<Tally>,
    features: Features,
    memory: Arc<Memory>,
    queues: Vec<Told>,
    inflight: Option<Inflight>,
    log: Option<Arc<DirtyLog>>,
}

impl Device {
    /// Nothing is known of the guest yet.
    pub fn new(context: Arc<Context>, tally: Arc<Tally>) -> Device {
        Device {
            context,
            tally,
            features: Features::default(),
            memory: Arc::default(),
            queues: (0..QUEUES_MAX).map(|_| Told::default()).collect(),
            inflight: None,
            log: None,
        }
    }

    /// Writes nothing more for the guest; what it asked may still be done.
    pub fn end(&mut self) {
        for told in &mut self.queues {
            told.queue = None;
        }
    }

    fn told(&mut self, index: u32) -> Result<&mut Told> {
        let index = usize::try_from(index).map_err(|_| Error::InvalidParam)?;
        self.queues.get_mut(index).ok_or(Error::InvalidParam)
    }

    fn logging(&self, told: &Told) -> Option<Logging> {
        let log = self.log.clone().filter(|_| self.features.log_all())?;
        let used_guest = told.log_used.then_some(told.addresses.used_guest);
        Some(Logging { log, used_guest })
    }

    fn ring(&self, told: &Told) -> Result<Ring> {
        let event_idx = self.features.event_idx();
        Ring::new(&self.memory, told.addresses, told.size, event_idx).ok_or(Error::InvalidParam)
    }

    /// Lets a queue run as soon as all is known that it needs.
    fn begin(&mut self, index: u32) -> Result<()> {
        let at = usize::try_from(index).map_err(|_| Error::InvalidParam)?;
        let told = self.queues.get(at).ok_or(Error::InvalidParam)?;
        let ready = told.enabled && told.kick.is_some() && told.addresses != Addresses::default();
        if !ready {
            return Ok(());
        }
        if told.queue.is_none() {
            let queue = self.prepare(index, told)?;
            self.queues[at].queue = Some(queue);
        }
        let told = &mut self.queues[at];
        if let (Some(queue), Some(kick)) = (&mut told.queue, &told.kick) {
            queue.run(kick).map_err(Error::ReqHandlerError)?;
            // What an earlier life gave back but could not say so any more.
            queue.set_call(told.call.clone());
        }
        Ok(())
    }

    fn prepare(&self, index: u32, told: &Told) -> Result<Queue> {
        let ring = self.ring(told)?;
        let number = u16::try_from(index).map_err(|_| Error::InvalidParam)?;
        let tracker = match &self.inflight {
            None => None,
            Some(inflight) => Some(inflight.queue(number, &ring).ok_or(Error::InvalidParam)?),
        };
        let start = match &tracker {
            None => Start {
                again: std::collections::VecDeque::new(),
                counter: 0,
                next: told.base,
            },
            Some(tracker) => {
                let found = tracker.recover(&ring, told.base);
                if !found.heads.is_empty() {
                    debug!(
                        queue = index,
                        requests = found.heads.len(),
                        "begins again what was under way"
                    );
                }
                Start {
                    again: found.heads.into(),
                    counter: found.counter,
                    next: found.next,
                }
            }
        };
        let back = Back {
            ring,
            tracker,
            call: told.call.clone(),
            error: told.error.clone(),
            log: self.logging(told),
        };
        Queue::new(
            self.context.clone(),
            self.tally.clone(),
            self.memory.clone(),
            back,
            start,
            !self.features.flush(),
        )
        .map_err(Error::ReqHandlerError)
    }

    /// The guest's memory is another one: queues go on with the requests that they had.
    fn set_memory(&mut self, regions: Vec<Region>) -> Result<()> {
        if regions.len() > REGIONS_MAX {
            return Err(Error::InvalidParam);
        }
        self.memory = Arc::new(Memory::new(regions));
        for at in 0..self.queues.len() {
            if let Some(queue) = &mut self.queues[at].queue {
                queue.pause();
                let (memory, ring) = (self.memory.clone(), self.ring(&self.queues[at])?);
                if let Some(queue) = &mut self.queues[at].queue {
                    queue.move_to(memory, ring);
                }
                self.begin(at as u32)?;
            }
        }
        Ok(())
    }

    fn relog(&mut self) {
        for at in 0..self.queues.len() {
            let logging = self.logging(&self.queues[at]);
            if let Some(queue) = &self.queues[at].queue {
                queue.set_log(logging);
            }
        }
    }

    fn region(region: &VhostUserMemoryRegion, file: &File) -> Result<Region> {
        let (guest, user) = (region.guest_phys_addr, region.user_addr);
        Region::new(guest, user, region.memory_size, region.mmap_offset, file).map_err(Error::ReqHandlerError)
    }
}

/// An eventfd, not to be waited on by reading or writing.
fn event(file: Option<File>) -> Result<Option<File>> {
    use std::os::fd::AsRawFd;
    let Some(file) = file else { return Ok(None) };
    let link =
        std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(Error::ReqHandlerError)?;
    if link.as_os_str() != EVENTFD {
        return Err(Error::InvalidParam);
    }
    let failed = |error: rustix::io::Errno| Error::ReqHandlerError(error.into());
    let flags = rustix::fs::fcntl_getfl(&file).map_err(failed)?;
    rustix::fs::fcntl_setfl(&file, flags | rustix::fs::OFlags::NONBLOCK).map_err(failed)?;
    Ok(Some(file))
}

fn unsupported<T>(what: &'static str) -> Result<T> {
    Err(Error::InvalidOperation(what))
}

impl VhostUserBackendReqHandlerMut for Device {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_device(&mut self) -> Result<()> {
        unsupported("reset of the device was not offered")
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(Features::offered(self.context.offer.read_only).0)
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        let features = Features(features);
        if !features.within(Features::offered(self.context.offer.read_only)) {
            return Err(Error::FeatureMismatch);
        }
        self.features = features;
        self.relog();
        if !features.protocol() {
            for index in 0..u32::from(QUEUES_MAX) {
                self.told(index)?.enabled = true;
                self.begin(index)?;
            }
        }
        Ok(())
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy: Option<bool>,
    ) -> Result<Option<Vec<VhostUserMemoryRegionBase>>> {
        let both = regions.iter().zip(&files);
        let mapped = both
            .map(|(region, file)| Device::region(region, file))
            .collect::<Result<Vec<Region>>>()?;
        self.set_memory(mapped)?;
        Ok(None)
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Ok(REGIONS_MAX as u64)
    }

    fn add_mem_region(
        &mut self,
        region: &VhostUserSingleMemoryRegion,
        file: File,
        _postcopy: Option<bool>,
    ) -> Result<Option<VhostUserMemoryRegionBase>> {
        let mut regions = self.memory.regions().to_vec();
        regions.push(Device::region(region, &file)?);
        self.set_memory(regions)?;
        Ok(None)
    }

    fn remove_mem_region(&mut self, region: &VhostUserSingleMemoryRegion) -> Result<()> {
        let (guest, user, len) = (region.guest_phys_addr, region.user_addr, region.memory_size);
        let mut regions = self.memory.regions().to_vec();
        regions.retain(|known| !known.is(guest, user, len));
        self.set_memory(regions)
    }

    fn set_vring_num(&mut self, index: u32, size: u32) -> Result<()> {
        let told = self.told(index)?;
        if told.queue.is_some() {
            return unsupported("a queue that runs cannot change its length");
        }
        told.size = u16::try_from(size)
            .ok()
            .filter(|size| size.is_power_of_two() && *size <= SIZE_MAX)
            .ok_or(Error::InvalidParam)?;
        Ok(())
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        flags: VhostUserVringAddrFlags,
        descriptors: u64,
        used: u64,
        available: u64,
        log: u64,
    ) -> Result<()> {
        let addresses = Addresses {
            descriptors,
            available,
            used,
            used_guest: log,
        };
        let told = self.told(index)?;
        let moved = Addresses {
            used_guest: told.addresses.used_guest,
            ..addresses
        } != told.addresses;
        if moved && told.queue.is_some() {
            return unsupported("the rings of a queue that runs cannot move");
        }
        told.addresses = addresses;
        told.log_used = flags.contains(VhostUserVringAddrFlags::VHOST_VRING_F_LOG);
        self.relog();
        self.begin(index)
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        let told = self.told(index)?;
        told.base = u16::try_from(base).map_err(|_| Error::InvalidParam)?;
        Ok(())
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        let context = self.context.clone();
        let told = self.told(index)?;
        if let Some(mut queue) = told.queue.take() {
            let quiet = queue.drain(DRAIN_MAX, || context.is_closing());
            told.base = queue.next().unwrap_or(told.base);
            if !quiet {
                warn!(
                    queue = index,
                    "a front end stops a queue, but its requests have no answers yet"
                );
                return Err(Error::BackendInternalError);
            }
        }
        let told = self.told(index)?;
        (told.kick, told.call) = (None, None);
        Ok(VhostUserVringState::new(index, u32::from(told.base)))
    }

    fn set_vring_kick(&mut self, index: u8, file: Option<File>) -> Result<()> {
        let told = self.told(u32::from(index))?;
        if let Some(queue) = &mut told.queue {
            queue.pause();
        }
        told.kick = event(file)?;
        if told.kick.is_none() {
            return unsupported("a queue that has to be polled");
        }
        self.begin(u32::from(index))
    }

    fn set_vring_call(&mut self, index: u8, file: Option<File>) -> Result<()> {
        let told = self.told(u32::from(index))?;
        told.call = event(file)?.map(Arc::new);
        if let Some(queue) = &told.queue {
            queue.set_call(told.call.clone());
        }
        Ok(())
    }

    fn set_vring_err(&mut self, index: u8, file: Option<File>) -> Result<()> {
        self.told(u32::from(index))?.error = event(file)?.map(Arc::new);
        Ok(())
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::LOG_SHMFD
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::BACKEND_REQ
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::INFLIGHT_SHMFD
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS)
    }

    fn set_protocol_features(&mut self, _features: u64) -> Result<()> {
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(u64::from(QUEUES_MAX))
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        let told = self.told(index)?;
        told.enabled = enable;
        if !enable && let Some(queue) = &mut told.queue {
            queue.pause();
        }
        self.begin(index)
    }

    fn get_config(&mut self, offset: u32, size: u32, _flags: VhostUserConfigFlags) -> Result<Vec<u8>> {
        Ok(configuration(self.context.offer.length.now(), offset, size))
    }

    fn set_config(&mut self, _offset: u32, _bytes: &[u8], _flags: VhostUserConfigFlags) -> Result<()> {
        unsupported("nothing in the configuration can be changed")
    }

    fn set_backend_req_fd(&mut self, _backend: Backend) {
        debug!("taken before it came here");
    }

    fn set_gpu_socket(&mut self, _backend: GpuBackend) -> Result<()> {
        unsupported("this is no display")
    }

    fn get_shared_object(&mut self, _id: VhostUserSharedMsg) -> Result<File> {
        unsupported("shared objects were not offered")
    }

    fn get_inflight_fd(&mut self, asked: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        let (queues, size) = (asked.num_queues, asked.queue_size);
        if queues > QUEUES_MAX || size > SIZE_MAX {
            return Err(Error::InvalidParam);
        }
        let (inflight, file) = Inflight::create(queues, size).map_err(Error::ReqHandlerError)?;
        let told = VhostUserInflight::new(inflight.len(), 0, queues, size);
        self.inflight = Some(inflight);
        Ok((told, file))
    }

    fn set_inflight_fd(&mut self, kept: &VhostUserInflight, file: File) -> Result<()> {
        let (queues, size) = (kept.num_queues, kept.queue_size);
        if queues > QUEUES_MAX || size > SIZE_MAX {
            return Err(Error::InvalidParam);
        }
        let inflight =
            Inflight::open(&file, kept.mmap_offset, queues, size).map_err(Error::ReqHandlerError)?;
        if inflight.len() > kept.mmap_size {
            return Err(Error::InvalidParam);
        }
        self.inflight = Some(inflight);
        Ok(())
    }

    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _file: File,
    ) -> Result<Option<File>> {
        unsupported("there is no state of the device")
    }

    fn check_device_state(&mut self) -> Result<()> {
        unsupported("there is no state of the device")
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        unsupported("there is no shared memory of the device")
    }

    fn set_log_base(&mut self, log: &VhostUserLog, file: File) -> Result<()> {
        let mapped = DirtyLog::new(&file, log.mmap_offset, log.mmap_size).map_err(Error::ReqHandlerError)?;
        self.log = Some(Arc::new(mapped));
        self.relog();
        Ok(())
    }
}

/// The errors of this module are the front end's; io errors carry what the system said.
pub fn told_by(error: &Error) -> io::Error {
    io::Error::other(error.to_string())
}
