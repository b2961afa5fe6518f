//! The exchange: what members tell each other, and how they find out that they disagree.

use crate::error::Error;
use crate::op::Direction;
use crate::sums::{Sum, check_count, merge_shards};
use crate::tensor::DType;
use std::pin::Pin;

/// An exchange under way: every member's message, by rank.
pub type Exchange<'a> = Pin<Box<dyn Future<Output = Result<Vec<Vec<u8>>, Error>> + Send + 'a>>;

/// Members of a group that exchange small messages: devices, threads, processes, machines.
///
/// An implementation must not hang: a member that does not come is [`Error::Timeout`] for the others, one that is known
/// never to come [`Error::MemberGone`]. Nor may its future block, so that one thread can drive several members.
pub trait Communicator: Send + Sync {
    /// This member's number, 0 up to `size`.
    fn rank(&self) -> usize;
    /// Number of members.
    fn size(&self) -> usize;
    /// Every member's message, by rank. Called by all members the same number of times, one exchange after the
    /// other; messages may differ in length. The exchange begins when the future is first polled.
    fn all_gather<'a>(&'a self, message: &'a [u8]) -> Exchange<'a>;
    /// This member has begun a call and will not come to its exchange, because the call's future was dropped. What it sends
    /// next must not pass for the message of that call: all its later exchanges fail ([`Error::MemberGone`]), and the others
    /// need not wait for it. Called by a destructor: it must not wait, nor panic.
    fn give_up(&self);
}

/// A member that has begun a call and not come to its exchange yet. Dropped with the call, it gives the exchange up.
pub(super) struct OnTheWay<'a>(&'a dyn Communicator);

impl<'a> OnTheWay<'a> {
    pub fn to_exchange(group: &'a dyn Communicator) -> Self {
        OnTheWay(group)
    }

    /// From here on the exchange itself knows whether it is dropped.
    pub fn arrived(self) {
        std::mem::forget(self);
    }
}

impl Drop for OnTheWay<'_> {
    fn drop(&mut self) {
        self.0.give_up();
    }
}

/// Of the exchange's format.
const VERSION: u32 = 2;
/// Position of the word that says whether the member's own part went well.
const SUCCESS: usize = 4;

/// A number that all members must have in common, a word of a message's head; and how people read it.
#[derive(Clone, Copy)]
pub(super) struct Word {
    pub what: &'static str,
    pub value: u32,
    pub show: fn(u32) -> String,
}

fn number(value: u32) -> String {
    value.to_string()
}

fn head<S: Sum>(dtype: DType, local: &Result<Vec<Vec<S>>, Error>, settings: &[Word]) -> Vec<Word> {
    let show_call = |v| if v == Direction::Forward as u32 { "forward".into() } else { "backward".into() };
    let show_dtype = |v| {
        let known = [DType::F32, DType::F16, DType::BF16].into_iter().find(|&dtype| dtype as u32 == v);
        known.map_or_else(|| number(v), |dtype| format!("{dtype:?}"))
    };
    let layers = local.as_deref().unwrap_or_default();
    let fixed = [
        Word { what: "the version of wgpu-norm's exchange", value: VERSION, show: number },
        Word { what: "the call", value: S::DIRECTION as u32, show: show_call },
        Word { what: "the element type", value: dtype as u32, show: show_dtype },
        Word { what: "the number of layers", value: layers.len() as u32, show: number },
        Word { what: "success", value: local.is_ok().into(), show: number },
    ];
    let channels = layers.iter().map(|layer| Word { what: CHANNELS, value: layer.len() as u32, show: number });
    fixed.into_iter().chain(channels).chain(settings.iter().copied()).collect()
}

const CHANNELS: &str = "the channels of a layer";

/// Sums of the whole group for each of the layers in `local`, in one message: every member gets the same bits.
///
/// Members merge by rank in a fixed binary tree. `local` may be an error: it is returned here, and the other
/// members get [`Error::MemberFailed`] and do not wait in vain. Members whose calls, numbers of layers, channels
/// or element types differ all get [`Error::Disagreement`], and [`Error::TooLarge`] if a channel of the whole group has more
/// values than are counted, 2^32 - 1.
///
/// Layers whose inputs do not depend on each other (branches, or several small norms) can share a message.
pub async fn all_reduce<S: Sum>(
    group: &dyn Communicator,
    dtype: DType,
    local: Result<Vec<Vec<S>>, Error>,
) -> Result<Vec<Vec<S>>, Error> {
    all_reduce_alike(group, dtype, local, &[]).await
}

/// The same of layers that must have `settings` in common.
pub(super) async fn all_reduce_alike<S: Sum>(
    group: &dyn Communicator,
    dtype: DType,
    local: Result<Vec<Vec<S>>, Error>,
    settings: &[Word],
) -> Result<Vec<Vec<S>>, Error> {
    let own_rank = group.rank();
    let own = head(dtype, &local, settings);
    let head: Vec<u32> = own.iter().map(|word| word.value).collect();
    let mut message: Vec<u8> = bytemuck::cast_slice(&head).to_vec();
    for layer in local.iter().flatten() {
        message.extend_from_slice(bytemuck::cast_slice(layer));
    }
    let messages = group.all_gather(&message).await?;
    let local = local?;
    if messages.len() != group.size() || messages.get(own_rank) != Some(&message) {
        return Err(Error::Communication(format!("rank {own_rank} did not get its own message back")));
    }
    let heads: Vec<Vec<u32>> = messages.iter().map(|m| words(m, head.len())).collect();
    if let Some(rank) = heads.iter().position(|h| h.get(SUCCESS) == Some(&0)) {
        return Err(Error::MemberFailed { rank });
    }
    agree(&own, &heads)?;
    // Behind the head come all layers' channels, one after the other.
    let payload = |message: &Vec<u8>| bytemuck::pod_collect_to_vec(message.get(head.len() * 4..).unwrap_or(&[]));
    let shards: Vec<Vec<S>> = messages.iter().map(payload).collect();
    let mut column = Vec::with_capacity(shards.len());
    let mut channels = 0..;
    let mut merge = |c: usize| {
        column.clear();
        column.extend(shards.iter().filter_map(|shard| shard.get(c)));
        check_count(column.iter().map(|sum: &S| sum.count().into()))?;
        Ok(merge_shards(&column))
    };
    local.iter().map(|layer| channels.by_ref().take(layer.len()).map(&mut merge).collect()).collect()
}

fn words(message: &[u8], len: usize) -> Vec<u32> {
    let bytes = message.get(..len * 4).unwrap_or(&message[..message.len() / 4 * 4]);
    bytemuck::pod_collect_to_vec(bytes)
}

/// Compares all heads with rank 0's: every member comes to the same verdict.
fn agree(own: &[Word], heads: &[Vec<u32>]) -> Result<(), Error> {
    let Some(first) = heads.first() else { return Ok(()) };
    for i in 0..heads.iter().map(Vec::len).max().unwrap_or(0) {
        let value = |head: &Vec<u32>| head.get(i).copied().unwrap_or(0);
        if let Some(rank) = heads.iter().position(|head| value(head) != value(first)) {
            let Word { what, show, .. } =
                own.get(i).copied().unwrap_or(Word { what: CHANNELS, value: 0, show: number });
            let [expected, actual] = [first, &heads[rank]].map(|head| show(value(head)));
            return Err(Error::Disagreement { what, rank, expected, actual });
        }
    }
    Ok(())
}
