//! A small correct proxy over images in memory, on top of [`Peer`].

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use longshore::{ConnectionOptions, ImageProxy};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe::Sender;
use tokio::task::JoinHandle;

use super::image::TestImage;
use super::peer::{Peer, PipeEnd};
use super::within_bound;

/// A document that is being written into a pipe, until `FinishPipe` closes it.
type Writing = JoinHandle<(Sender, io::Result<()>)>;

const NO_IMAGE: &str = "invalid imageid";
const NO_PIPE: &str = "no active pipe";

/// Whether a skopeo that speaks this version has this method. The last number of the version decides, as in the source
/// of skopeo.
pub fn has_method(version: &str, method: &str) -> bool {
    let since = match method {
        "Initialize" | "OpenImage" | "CloseImage" | "GetManifest" | "GetBlob" | "FinishPipe"
        | "Shutdown" => 1,
        "GetConfig" => 2,
        "GetFullConfig" => 3,
        "OpenImageOptional" => 4,
        "GetLayerInfo" => 5,
        "GetLayerInfoPiped" => 7,
        "GetRawBlob" => 8,
        "OpenVarlinkSocket" => 9,
        _ => return false,
    };
    let last = version.rsplit('.').next().unwrap();
    last.parse::<u32>().unwrap() >= since
}

pub struct MemoryProxy {
    peer: Peer,
    version: String,
    images: HashMap<String, TestImage>,
    open: HashMap<u64, TestImage>,
    opened: u64,
    pipes: HashMap<u32, Writing>,
    unfinished: Arc<AtomicUsize>,
    unknown: Vec<String>,
}

impl MemoryProxy {
    /// Serves these images by name until the other end shuts down.
    pub fn spawn(version: &str, images: &[(&str, &TestImage)]) -> (OwnedFd, Serving) {
        let (peer, socket) = Peer::pair();
        let unfinished = Arc::new(AtomicUsize::new(0));
        let server = Self {
            peer,
            version: version.to_owned(),
            images: images
                .iter()
                .map(|(name, image)| ((*name).to_owned(), (*image).clone()))
                .collect(),
            open: HashMap::new(),
            opened: 0,
            pipes: HashMap::new(),
            unfinished: Arc::clone(&unfinished),
            unknown: Vec::new(),
        };
        let task = tokio::spawn(server.serve());
        (socket, Serving { task, unfinished })
    }

    pub async fn connected(version: &str, images: &[(&str, &TestImage)]) -> (ImageProxy, Serving) {
        let (socket, server) = Self::spawn(version, images);
        let proxy = ImageProxy::connect(socket, ConnectionOptions::default()).await;
        (proxy.unwrap(), server)
    }

    async fn serve(mut self) -> Leftover {
        while let Some(call) = self.peer.next().await {
            if call.method == "Shutdown" {
                break;
            }
            let outcome = if has_method(&self.version, &call.method) {
                self.answer(&call.method, &call.args).await
            } else {
                Err(format!("Unknown method: {}", call.method))
            };
            if let Err(reason) = outcome {
                if [NO_IMAGE, NO_PIPE].contains(&&*reason) {
                    self.unknown.push(format!("{call:?}"));
                }
                self.peer.refuse(&reason).await;
            }
            self.unfinished.store(self.pipes.len(), Ordering::Relaxed);
        }
        Leftover {
            images: self.open.len(),
            pipes: self.pipes.len(),
            unknown: self.unknown,
        }
    }

    async fn answer(&mut self, method: &str, args: &Value) -> Result<(), String> {
        let image = |server: &Self| {
            let found = args[0].as_u64().and_then(|id| server.open.get(&id));
            found.cloned().ok_or(NO_IMAGE.to_owned())
        };
        match method {
            "Initialize" => self.peer.reply(json!(self.version)).await,
            "OpenImage" | "OpenImageOptional" => {
                let found = self.images.get(args[0].as_str().unwrap()).cloned();
                match found {
                    Some(image) => {
                        self.opened += 1;
                        self.open.insert(self.opened, image);
                        self.peer.reply(json!(self.opened)).await;
                    }
                    None if method == "OpenImageOptional" => self.peer.reply(json!(0)).await,
                    None => return Err("no such image".to_owned()),
                }
            }
            "CloseImage" => {
                image(self)?;
                self.open.remove(&args[0].as_u64().unwrap());
                self.peer.reply(Value::Null).await;
            }
            "GetManifest" => {
                let manifest = image(self)?.manifest;
                let digest = json!(manifest.digest.to_string());
                self.pipe(digest, manifest.bytes).await;
            }
            "GetFullConfig" => self.pipe(Value::Null, image(self)?.config.bytes).await,
            "GetConfig" => {
                let config: Value = serde_json::from_slice(&image(self)?.config.bytes).unwrap();
                let part = config["config"].to_string().into_bytes();
                self.pipe(Value::Null, part).await;
            }
            "GetLayerInfo" => {
                let layers = layer_info(&image(self)?);
                self.peer.reply(layers).await;
            }
            "GetLayerInfoPiped" => {
                let layers = layer_info(&image(self)?).to_string().into_bytes();
                self.pipe(Value::Null, layers).await;
            }
            "GetBlob" => {
                let bytes = blob(&image(self)?, &args[1])?;
                self.pipe(json!(bytes.len()), bytes).await;
            }
            "GetRawBlob" => {
                let bytes = blob(&image(self)?, &args[1])?;
                let mut ends = self.peer.grant_raw(bytes.len().try_into().unwrap()).await;
                tokio::spawn(async move {
                    let written = ends.data.write_all(&bytes).await;
                    if let Err(error) = written {
                        let report = json!({ "code": "EPIPE", "message": error.to_string() });
                        let _ = ends.error.write_all(report.to_string().as_bytes()).await;
                    }
                });
            }
            "FinishPipe" => {
                let id = u32::try_from(args[0].as_u64().unwrap()).unwrap();
                let writing = self.pipes.remove(&id).ok_or(NO_PIPE)?;
                // skopeo does the same: no other call is answered until everything is written.
                let (pipe, written) = writing.await.unwrap();
                drop(pipe);
                written.map_err(|error| error.to_string())?;
                self.peer.reply(Value::Null).await;
            }
            other => return Err(format!("not served: {other}")),
        }
        Ok(())
    }

    async fn pipe(&mut self, value: Value, content: Vec<u8>) {
        let PipeEnd { id, mut data } = self.peer.grant_pipe(value).await;
        let writing = tokio::spawn(async move {
            let written = data.write_all(&content).await;
            (data, written)
        });
        self.pipes.insert(id, writing);
    }
}

/// A running proxy.
pub struct Serving {
    task: JoinHandle<Leftover>,
    unfinished: Arc<AtomicUsize>,
}

impl Serving {
    /// Waits for the end of the proxy, and returns what was left open.
    pub async fn ended(self) -> Leftover {
        within_bound(self.task).await.unwrap()
    }

    /// The number of pipes that wait for their `FinishPipe`.
    pub fn unfinished(&self) -> usize {
        self.unfinished.load(Ordering::Relaxed)
    }
}

/// What was still open in the proxy when it ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Leftover {
    pub images: usize,
    pub pipes: usize,
    /// Calls with an image or a pipe that was not open, for example because it was released twice.
    pub unknown: Vec<String>,
}

impl Leftover {
    pub const NOTHING: Self = Self {
        images: 0,
        pipes: 0,
        unknown: Vec::new(),
    };
}

fn layer_info(image: &TestImage) -> Value {
    image
        .layers
        .iter()
        .map(|layer| {
            json!({
                "digest": layer.digest.to_string(),
                "size": layer.bytes.len(),
                "media_type": layer.media_type,
            })
        })
        .collect()
}

fn blob(image: &TestImage, digest: &Value) -> Result<Vec<u8>, String> {
    let wanted = digest.as_str().unwrap();
    let found = image.blobs().find(|blob| blob.digest.to_string() == wanted);
    found
        .map(|blob| blob.bytes.clone())
        .ok_or_else(|| format!("unknown blob {wanted}"))
}
