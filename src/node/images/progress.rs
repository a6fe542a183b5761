//! How far pulls are, for whoever asks by an image's name.
//!
//! Owns two tables: what is being fetched, and by which names it is waited for. Entries go with the
//! guards that this hands out, however a pull ends.

use super::Inner;
use super::transfer::Progress;
use gardend_controller::ports::PullProgress;
use gardend_controller::record::ImageDigest;
use std::sync::Arc;

/// Somebody waits for what is fetched, under a name.
pub(super) struct Asked {
    inner: Arc<Inner>,
    name: String,
}

impl Drop for Asked {
    fn drop(&mut self) {
        let mut state = self.inner.state();
        if let Some((_, waiting)) = state.asked.get_mut(&self.name) {
            *waiting -= 1;
            if *waiting == 0 {
                state.asked.remove(&self.name);
            }
        }
    }
}

/// Something is being fetched.
pub(super) struct UnderWay {
    inner: Arc<Inner>,
    top: ImageDigest,
    progress: Arc<Progress>,
}

impl UnderWay {
    pub(super) fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut state = self.inner.state();
        // One that was given up may have a successor by now.
        if state.under_way.get(&self.top).is_some_and(|known| Arc::ptr_eq(known, &self.progress)) {
            state.under_way.remove(&self.top);
        }
    }
}

impl Inner {
    /// Notes that what this name means is waited for.
    pub(super) fn ask(self: &Arc<Self>, name: String, top: &ImageDigest) -> Asked {
        let mut state = self.state();
        let asked = state.asked.entry(name.clone()).or_insert_with(|| (top.clone(), 0));
        // The latest meaning: a tag may have moved since the others asked.
        asked.0 = top.clone();
        asked.1 += 1;
        drop(state);
        Asked { inner: Arc::clone(self), name }
    }

    /// Notes that a fetch begins.
    pub(super) fn begin_progress(self: &Arc<Self>, top: &ImageDigest) -> UnderWay {
        let progress = Arc::<Progress>::default();
        self.state().under_way.insert(top.clone(), Arc::clone(&progress));
        UnderWay { inner: Arc::clone(self), top: top.clone(), progress }
    }

    /// How far the pull is that is waited for by this name.
    pub(super) fn pulling(&self, name: &str) -> Option<PullProgress> {
        let state = self.state();
        let (top, _) = state.asked.get(name)?;
        state.under_way.get(top).map(|progress| progress.seen())
    }
}
