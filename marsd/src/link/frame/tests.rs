use super::*;

async fn read_all(bytes: &[u8]) -> Vec<Result<Option<Bytes>, io::ErrorKind>> {
    let mut reader = FrameReader::new(io::Cursor::new(bytes.to_vec()));
    let mut out = Vec::new();
    loop {
        let read = reader.read().await.map_err(|e| e.kind());
        let last = !matches!(read, Ok(Some(_)));
        out.push(read);
        if last {
            return out;
        }
    }
}

#[tokio::test]
async fn frames_cross_in_order_whatever_their_size() {
    let (a, b) = tokio::io::duplex(1000);
    let sizes = [
        1,
        2,
        DIRECT_BYTES_MIN - 1,
        DIRECT_BYTES_MIN,
        GATHERED_BYTES_MAX + 3,
        FRAME_BYTES_MAX,
    ];
    let writing = tokio::spawn(async move {
        let mut writer = FrameWriter::new(a);
        for (n, size) in sizes.into_iter().enumerate() {
            let whole = Bytes::from(vec![n as u8; size]);
            writer
                .write(&[whole.slice(..size / 2), whole.slice(size / 2..)])
                .await
                .unwrap();
        }
        writer.shutdown().await.unwrap();
    });
    let mut reader = FrameReader::new(b);
    for (n, size) in sizes.into_iter().enumerate() {
        let frame = reader.read().await.unwrap().unwrap();
        assert_eq!(frame.len(), size);
        assert!(frame.iter().all(|&b| b == n as u8));
    }
    assert_eq!(reader.read().await.unwrap(), None);
    writing.await.unwrap();
}

#[tokio::test]
async fn garbage_is_an_error_and_never_a_large_allocation() {
    assert_eq!(read_all(b"").await, [Ok(None)]);
    assert_eq!(
        read_all(b"GET / HTTP/1.1\r\n\r\n").await,
        [Err(io::ErrorKind::InvalidData)]
    );
    assert_eq!(read_all(&[0, 0, 0, 0]).await, [Err(io::ErrorKind::InvalidData)]);
    assert_eq!(read_all(&[255; 9]).await, [Err(io::ErrorKind::InvalidData)]);
    assert_eq!(read_all(&[1, 0]).await, [Err(io::ErrorKind::UnexpectedEof)]);
    let frame = Bytes::from_static(b"x");
    assert_eq!(
        read_all(&[1, 0, 0, 0, b'x', 2, 0, 0, 0, b'y']).await,
        [Ok(Some(frame)), Err(io::ErrorKind::UnexpectedEof)]
    );
}

#[tokio::test]
async fn what_cannot_be_read_is_not_sent() {
    let mut writer = FrameWriter::new(tokio::io::sink());
    for parts in [
        vec![],
        vec![Bytes::new()],
        vec![Bytes::from(vec![0; FRAME_BYTES_MAX]), Bytes::from_static(b"x")],
    ] {
        let error = writer.write(&parts).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_times_out() {
    let (_held, b) = tokio::io::duplex(10);
    let mut reader = FrameReader::new(b);
    reader.set_idle(Some(Duration::from_secs(10)));
    assert_eq!(reader.read().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
}
