//! How far is this replica? The only place that moves its watermarks, and asserts their order.

use model::Lsn;

/// Positions in the log of this node; `trimmed ≤ written_back ≤ touched ≤ committed ≤ appended` always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watermarks {
    trimmed: Lsn,
    written_back: Lsn,
    touched: Lsn,
    committed: Lsn,
    appended: Lsn,
}

impl Watermarks {
    /// An empty log that begins at `at`.
    pub fn at(at: Lsn) -> Watermarks {
        Watermarks {
            trimmed: at,
            written_back: at,
            touched: at,
            committed: at,
            appended: at,
        }
    }

    /// As found by recovery.
    pub fn recovered(
        trimmed: Lsn,
        written_back: Lsn,
        touched: Lsn,
        committed: Lsn,
        appended: Lsn,
    ) -> Watermarks {
        let marks = Watermarks {
            trimmed,
            written_back,
            touched,
            committed,
            appended,
        };
        marks.check();
        marks
    }

    /// Log before this may be gone.
    pub fn trimmed(&self) -> Lsn {
        self.trimmed
    }

    /// Everything before this is durable on the disk.
    pub fn written_back(&self) -> Lsn {
        self.written_back
    }

    /// Nothing at or behind this has reached the disk.
    pub fn touched(&self) -> Lsn {
        self.touched
    }

    /// Everything before this is durable in the log.
    pub fn committed(&self) -> Lsn {
        self.committed
    }

    /// Everything before this is in the log and survives the process.
    pub fn appended(&self) -> Lsn {
        self.appended
    }

    /// The log grew.
    pub fn append(&mut self, to: Lsn) {
        assert!(
            to >= self.appended,
            "appended goes back from {} to {to}",
            self.appended
        );
        self.appended = to;
        self.check();
    }

    /// The log became durable.
    pub fn commit(&mut self, to: Lsn) {
        assert!(
            to >= self.committed,
            "committed goes back from {} to {to}",
            self.committed
        );
        self.committed = to;
        self.check();
    }

    /// Write-back up to here is about to begin, and that is durably known.
    pub fn touch(&mut self, to: Lsn) {
        assert!(
            to >= self.touched,
            "touched goes back from {} to {to}",
            self.touched
        );
        self.touched = to;
        self.check();
    }

    /// Write-back up to here is durable.
    pub fn write_back(&mut self, to: Lsn) {
        assert!(
            to >= self.written_back,
            "written_back goes back from {} to {to}",
            self.written_back
        );
        self.written_back = to;
        self.check();
    }

    /// The log before here was given up.
    pub fn trim(&mut self, to: Lsn) {
        assert!(
            to >= self.trimmed,
            "trimmed goes back from {} to {to}",
            self.trimmed
        );
        self.trimmed = to;
        self.check();
    }

    fn check(&self) {
        assert!(
            self.trimmed <= self.written_back
                && self.written_back <= self.touched
                && self.touched <= self.committed
                && self.committed <= self.appended,
            "watermarks out of order: {self:?}"
        );
    }
}
