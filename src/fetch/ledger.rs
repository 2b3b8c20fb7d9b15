//! What has become of each job. Pure: who does them is the run's affair.

use std::collections::VecDeque;

use tokio::sync::watch;

use super::{Job, Pulled};

/// How many small blobs follow a large one.
const SMALL_PER_LARGE: usize = 2;

/// In which order the jobs are given out.
#[derive(Debug)]
pub(super) enum Order {
    /// Large and small ones in turn, the largest and the smallest first: while the
    /// bytes of large ones keep the processors busy, answers for small ones are
    /// waited for, and the largest do not begin when all others are done. (The
    /// largest first, then the next, did the one after the other: 400 layers at
    /// 50 ms took 8 % longer, 85 real ones 3 %.)
    Mixed,
    /// As they come, and only those whose number is below `end`, which grows;
    /// at most `ahead` besides the one that is due.
    Window {
        end: watch::Receiver<usize>,
        ahead: usize,
    },
}

/// How many blobs are still to be asked for, given out or not, and their bytes. (A
/// manifest may say anything of sizes: their sum may be more than a `u64` holds.)
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct ToAsk {
    pub(super) blobs: usize,
    pub(super) bytes: u128,
}

#[derive(Debug)]
pub(super) struct Ledger<T> {
    order: Order,
    /// Jobs that are not given out yet, the next one last.
    held: Vec<Job>,
    outputs: Vec<Option<T>>,
    done: usize,
    /// The jobs' sizes, and which of their blobs are still to be asked for.
    sizes: Vec<u64>,
    unasked: Vec<bool>,
    to_ask: ToAsk,
    fetched_blobs: usize,
    fetched_bytes: u64,
    reused_blobs: usize,
}

impl<T> Ledger<T> {
    /// The jobs are numbered by their place.
    pub(super) fn new(jobs: Vec<Job>, order: Order) -> Self {
        let count = jobs.len();
        let sizes: Vec<u64> = jobs.iter().map(|job| job.layer.descriptor.size()).collect();
        let to_ask = ToAsk {
            blobs: count,
            bytes: sizes.iter().copied().map(u128::from).sum(),
        };
        let mut held = match order {
            Order::Mixed => mixed(jobs),
            Order::Window { .. } => jobs,
        };
        held.reverse();
        Self {
            order,
            held,
            outputs: std::iter::repeat_with(|| None).take(count).collect(),
            done: 0,
            sizes,
            unasked: vec![true; count],
            to_ask,
            fetched_blobs: 0,
            fetched_bytes: 0,
            reused_blobs: 0,
        }
    }

    /// The next job that may be given out now.
    pub(super) fn next(&mut self) -> Option<Job> {
        let end = match &mut self.order {
            Order::Mixed => usize::MAX,
            Order::Window { end, .. } => *end.borrow_and_update(),
        };
        self.held.pop_if(|job| job.number < end)
    }

    /// Ready when more may be given out than before.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(super) async fn more(&mut self) {
        match &mut self.order {
            Order::Window { end, .. } if !self.held.is_empty() => {
                if end.changed().await.is_err() {
                    // Nobody asks for more; what is out goes on.
                    std::future::pending::<()>().await;
                }
            }
            _ => std::future::pending().await,
        }
    }

    pub(super) fn to_ask(&self) -> ToAsk {
        self.to_ask
    }

    /// A job's blob was asked for, and there was an answer.
    pub(super) fn answered(&mut self, job: usize) {
        self.mark(job, false);
    }

    /// It will be asked for again.
    pub(super) fn again(&mut self, job: usize) {
        self.mark(job, true);
    }

    fn mark(&mut self, job: usize, unasked: bool) {
        let was = std::mem::replace(&mut self.unasked[job], unasked);
        let (ToAsk { blobs, bytes }, size) = (&mut self.to_ask, u128::from(self.sizes[job]));
        match (was, unasked) {
            (true, false) => (*blobs, *bytes) = (*blobs - 1, *bytes - size),
            (false, true) => (*blobs, *bytes) = (*blobs + 1, *bytes + size),
            (true, true) | (false, false) => {}
        }
    }

    /// A job is done; without fetching, if its output was there already.
    pub(super) fn done(&mut self, job: &Job, output: T, fetched: bool) {
        self.mark(job.number, false);
        let place = &mut self.outputs[job.number];
        if place.replace(output).is_some() {
            return;
        }
        self.done += 1;
        if fetched {
            self.fetched_blobs += 1;
            let size = job.layer.descriptor.size();
            self.fetched_bytes = self.fetched_bytes.saturating_add(size);
        } else {
            self.reused_blobs += 1;
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.done == self.outputs.len()
    }

    /// All outputs, in the order of the jobs, and what was fetched for them.
    pub(super) fn close(self) -> (Vec<T>, Pulled) {
        let pulled = Pulled {
            fetched_blobs: self.fetched_blobs,
            fetched_bytes: self.fetched_bytes,
            reused_blobs: self.reused_blobs,
            ..Pulled::default()
        };
        (self.outputs.into_iter().flatten().collect(), pulled)
    }
}

fn mixed(mut jobs: Vec<Job>) -> Vec<Job> {
    jobs.sort_by_key(|job| std::cmp::Reverse(job.layer.descriptor.size()));
    let mut left = VecDeque::from(jobs);
    let mut mixed = Vec::with_capacity(left.len());
    while let Some(large) = left.pop_front() {
        mixed.push(large);
        mixed.extend((0..SMALL_PER_LARGE).map_while(|_| left.pop_back()));
    }
    mixed
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::image::{Descriptor, Digest, MediaType};

    use crate::fetch::Layer;

    fn jobs(sizes: &[u64]) -> Vec<Job> {
        let job = |(number, size): (usize, &u64)| {
            let digest: Digest = format!("sha256:{number:064x}").parse().expect("a digest");
            let descriptor = Descriptor::new(MediaType::ImageLayer, *size, digest);
            let layer = Layer {
                index: number,
                descriptor,
                diff_id: None,
            };
            Job {
                number,
                image: 0,
                also: [].into(),
                layer,
                failed: 0,
            }
        };
        sizes.iter().enumerate().map(job).collect()
    }

    fn given_out(ledger: &mut Ledger<()>) -> Vec<usize> {
        std::iter::from_fn(|| ledger.next())
            .map(|job| job.number)
            .collect()
    }

    #[test]
    fn large_ones_and_small_ones_in_turn() {
        let table: [(&[u64], &[usize]); 4] = [
            (&[], &[]),
            (&[5, 9], &[1, 0]),
            (&[5, 9, 1, 9], &[1, 2, 0, 3]),
            (&[1, 2, 3, 4, 5, 6, 7], &[6, 0, 1, 5, 2, 3, 4]),
        ];
        for (sizes, expected) in table {
            let mut ledger = Ledger::new(jobs(sizes), Order::Mixed);
            assert_eq!(given_out(&mut ledger), expected, "{sizes:?}");
        }
    }

    #[test]
    fn a_window_gives_out_no_further_than_it_reaches() {
        let (window, end) = watch::channel(2);
        let mut ledger = Ledger::new(jobs(&[5, 9, 1, 9]), Order::Window { end, ahead: 1 });
        assert_eq!(given_out(&mut ledger), [0, 1]);
        window.send_replace(3);
        assert_eq!(given_out(&mut ledger), [2]);
    }

    #[test]
    fn what_is_asked_for_again_counts_again_and_once() {
        let all = jobs(&[1, 2]);
        let mut ledger = Ledger::new(all.clone(), Order::Mixed);
        let both = ToAsk { blobs: 2, bytes: 3 };
        assert_eq!(ledger.to_ask(), both);
        ledger.answered(0);
        ledger.answered(0);
        assert_eq!(ledger.to_ask(), ToAsk { blobs: 1, bytes: 2 });
        ledger.again(0);
        ledger.again(0);
        assert_eq!(ledger.to_ask(), both);
        ledger.done(&all[0], 'a', true);
        ledger.done(&all[0], 'b', true);
        assert!(!ledger.is_done());
        ledger.done(&all[1], 'c', false);
        assert!(ledger.is_done());
        assert_eq!(ledger.to_ask(), ToAsk::default());
        let (outputs, pulled) = ledger.close();
        assert_eq!(outputs, ['b', 'c']);
        assert_eq!(
            (
                pulled.fetched_blobs,
                pulled.fetched_bytes,
                pulled.reused_blobs
            ),
            (1, 1, 1)
        );
    }
}
