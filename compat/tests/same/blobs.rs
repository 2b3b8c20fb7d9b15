// `main.rs` includes this file once for each crate. The functions fetch blobs, good and bad, as users do.

use tokio::io::AsyncReadExt as _;

async fn read(
    mut reader: impl tokio::io::AsyncBufRead + Unpin,
    driver: impl Future<Output = Result<(), cip::Error>>,
) -> String {
    let mut bytes = Vec::new();
    let (read, driver) = tokio::join!(reader.read_to_end(&mut bytes), driver);
    let verdict = outcome(driver, |()| format!("right: {}", hash(&bytes)));
    format!("{:?}, {verdict}", read.is_ok())
}

/// Fetches a blob. The types require that the reader borrows nothing, and that the driver borrows only the proxy.
async fn blob_of<'a>(
    proxy: &'a cip::ImageProxy,
    image: &cip::OpenedImage,
    digest: &cip::oci_spec::image::Digest,
    size: u64,
) -> anyhow::Result<(
    Box<dyn tokio::io::AsyncBufRead + Send + Unpin>,
    impl Future<Output = Result<(), cip::Error>> + Send + Unpin + 'a,
)> {
    let (reader, driver) = proxy.get_blob(image, digest, size).await?;
    Ok((Box::new(reader), driver))
}

async fn blob(
    proxy: &cip::ImageProxy,
    image: &cip::OpenedImage,
    digest: &cip::oci_spec::image::Digest,
    size: u64,
) -> String {
    match blob_of(proxy, image, digest, size).await {
        Ok((reader, driver)) => read(reader, driver).await,
        Err(error) => kind(error.downcast_ref().expect("an error of the crate")),
    }
}

/// Reads `size` bytes at most, and awaits the driver afterwards, as some users do. With the other crate, this waits for
/// ever if the blob is shorter.
async fn blob_in_turn(
    proxy: &cip::ImageProxy,
    image: &cip::OpenedImage,
    digest: &cip::oci_spec::image::Digest,
    size: u64,
) -> String {
    let mut bytes = Vec::new();
    match proxy.get_blob(image, digest, size).await {
        Ok((reader, driver)) => {
            let read = reader.take(size).read_to_end(&mut bytes).await.is_ok();
            let verdict = outcome(driver.await, |()| hash(&bytes));
            format!("{read}, {verdict}")
        }
        Err(error) => kind(&error),
    }
}

async fn raw_blob(
    proxy: &cip::ImageProxy,
    image: &cip::OpenedImage,
    digest: &cip::oci_spec::image::Digest,
) -> String {
    let (size, mut file, error): (Option<u64>, tokio::fs::File, _) =
        match proxy.get_raw_blob(image, digest).await {
            Ok(blob) => blob,
            Err(error) => return kind(&error),
        };
    let mut bytes = Vec::new();
    let (read, error) = tokio::join!(file.read_to_end(&mut bytes), error);
    let error: Result<(), cip::GetBlobError> = error;
    let verdict = error.map_or_else(|error| blob_kind(&error), |()| hash(&bytes));
    format!("{size:?} {} {verdict}", read.is_ok())
}

async fn stream(
    proxy: &cip::ImageProxy,
    image: &cip::OpenedImage,
    digest: &cip::oci_spec::image::Digest,
    size: u64,
) -> String {
    let stream: cip::BlobStream<'_> = match proxy.get_blob_stream(image, digest, size).await {
        Ok(stream) => stream,
        Err(error) => return kind(&error),
    };
    let source = match stream.source() {
        cip::BlobStreamSource::GetRawBlob => "raw",
        cip::BlobStreamSource::GetBlob => "piped",
    };
    let shown = format!("{source} {} {stream:?}", stream.expected_size());
    let (reader, driver): (
        Box<dyn tokio::io::AsyncRead + Send + Unpin>,
        futures_util::future::BoxFuture<'_, cip::Result<()>>,
    ) = stream.into_parts();
    format!(
        "{shown}: {}",
        read(tokio::io::BufReader::new(reader), driver).await
    )
}

/// Reads some bytes, and drops the reader.
async fn dropped(reader: impl tokio::io::AsyncRead + Unpin) {
    let mut some = [0; 1000];
    tokio::io::BufReader::new(reader)
        .read_exact(&mut some)
        .await
        .unwrap();
}

/// Fetches blobs. The registry may send the large one with a fault.
pub(crate) async fn blobs(subject: &super::Subject) -> Vec<super::Line> {
    let mut lines = Vec::new();
    let mut found = |what: &str, outcome: String| lines.push((what.to_owned(), outcome));
    let proxy = cip::ImageProxy::new_with_config(config(&subject.skopeo))
        .await
        .unwrap();
    let image = proxy.open_image(&subject.image).await.unwrap();
    let none = super::unknown_digest();
    found("no blob", blob(&proxy, &image, &none, 100).await);
    found("no raw blob", raw_blob(&proxy, &image, &none).await);
    found("no stream", stream(&proxy, &image, &none, 100).await);

    let (small, size) = &subject.layers[0];
    for wrong in [size - 1, size + 1] {
        // The call or the driver may return the error: nobody fetches a blob of a wrong size on purpose.
        let is_refused = |verdict: String| {
            let refused = ["refused GetBlob", "refused FinishPipe"];
            let refused = refused.iter().any(|refused| verdict.contains(refused));
            if refused {
                "refused".to_owned()
            } else {
                verdict
            }
        };
        let verdict = blob(&proxy, &image, small, wrong).await;
        found("wrong size", is_refused(verdict));
        let verdict = stream(&proxy, &image, small, wrong).await;
        found("stream of wrong size", is_refused(verdict));
    }

    // The halves borrow neither the image nor the digest.
    let (reader, driver) = {
        let image = proxy.open_image(&subject.image).await.unwrap();
        proxy.get_blob(&image, &small.clone(), *size).await.unwrap()
    };
    found("halves", read(reader, driver).await);
    if let Ok((_, file, error)) = {
        let image = proxy.open_image(&subject.image).await.unwrap();
        proxy.get_raw_blob(&image, &small.clone()).await
    } {
        drop(file);
        found("raw halves", error.await.is_ok().to_string());
    }

    let (large, size) = &subject.layers[1];
    found("blob", blob(&proxy, &image, large, *size).await);
    found("raw blob", raw_blob(&proxy, &image, large).await);
    found("stream", stream(&proxy, &image, large, *size).await);
    if let Ok((reader, driver)) = proxy.get_blob(&image, large, *size).await {
        dropped(reader).await;
        found("dropped", outcome(driver.await, |()| "fine".to_owned()));
    }
    if let Ok((_, mut file, error)) = proxy.get_raw_blob(&image, large).await {
        file.read_exact(&mut [0; 1000]).await.unwrap();
        drop(file);
        let verdict = error
            .await
            .map_or_else(|error| blob_kind(&error), |()| "fine".to_owned());
        found("raw, dropped", verdict);
    }
    // A reader that is dropped early is an error of the driver with GetBlob, and no error with GetRawBlob.
    if let Ok(stream) = proxy.get_blob_stream(&image, large, *size).await {
        let (reader, driver) = stream.into_parts();
        dropped(reader).await;
        found(
            "stream, dropped",
            outcome(driver.await, |()| "fine".to_owned()),
        );
    }
    found(
        "end",
        outcome(proxy.finalize().await, |()| "ended".to_owned()),
    );
    lines
}

/// Fetches each layer in a task of its own, over one proxy.
pub(crate) async fn in_tasks(subject: &super::Subject) -> Vec<super::Line> {
    let proxy = cip::ImageProxy::new_with_config(config(&subject.skopeo))
        .await
        .unwrap();
    let image = proxy.open_image(&subject.image).await.unwrap();
    let shared = std::sync::Arc::new((proxy, image));
    let mut tasks = tokio::task::JoinSet::new();
    for (digest, size) in subject.layers.clone() {
        let shared = std::sync::Arc::clone(&shared);
        tasks.spawn(async move {
            let (proxy, image) = &*shared;
            (digest.to_string(), blob(proxy, image, &digest, size).await)
        });
    }
    let mut lines = tasks.join_all().await;
    lines.sort();
    lines
}
