"""Media over HTTP: parse the request, call the use case, build the response."""

from __future__ import annotations

from litestar import Response, get, post

from cdv_http.app_state import service_of
from cdv_http.auth import authenticate, authenticated_json
from cdv_http.bodies import FinalizeBody, UploadInitBody, asset_view, decode_body, given, to_int, upload_ticket
from cdv_http.metrics import counting_media
from cdv_http.request_state import state_of
from cdv_http.requests import AnyRequest, absolute_url, no_parameters
from cdv_http.responses import success


@post("/v1/media/uploadInit")
async def upload_init(request: AnyRequest) -> Response[bytes]:
    """Announce a media object and return the URL to upload its bytes to."""
    service = service_of(request)
    raw, subject = await authenticated_json(request, service.tokens, service.settings.max_body_bytes)
    body = decode_body(raw, UploadInitBody)
    with counting_media("announce"):
        upload = await service.vault.media.init_upload(
            did=body.did,
            mime_type=body.mime_type,
            size=to_int(body.size, "size"),
            sha256=given(body.sha256),
            filename=given(body.filename),
            subject=subject,
        )
    return success(upload_ticket(upload, absolute_url(request, upload.url)))


@post("/v1/media/finalize")
async def finalize(request: AnyRequest) -> Response[bytes]:
    """Verify the uploaded bytes and make the asset permanent."""
    service, state = service_of(request), state_of(request.scope)
    raw, subject = await authenticated_json(request, service.tokens, service.settings.max_body_bytes)
    body = decode_body(raw, FinalizeBody)
    with counting_media("finalize"):
        asset = await service.vault.media.finalize(
            asset_id=body.asset_id,
            sha256=body.sha256,
            subject=subject,
            correlation_id=state.correlation_id,
            traceparent=state.traceparent,
        )
    service.on_write()
    return success(asset_view(asset))


@get("/v1/media/{assetId:str}/meta")
async def media_meta(request: AnyRequest) -> Response[bytes]:
    """Return the metadata of an asset: finalised, to any valid token; pending, to its owner only."""
    service = service_of(request)
    viewer = await authenticate(request, service.tokens)
    no_parameters(request)
    return success(asset_view(await service.vault.media.describe(request.path_params["assetId"], viewer=viewer)))


@get("/v1/media/{assetId:str}/content")
async def media_content(request: AnyRequest) -> Response[bytes]:
    """Redirect to a short-lived signed URL of the asset's bytes."""
    service = service_of(request)
    await authenticate(request, service.tokens)
    no_parameters(request)
    # A client follows a redirected HEAD with a HEAD, and a URL may be signed for one method only.
    url = await service.vault.media.content_url(request.path_params["assetId"], head=state_of(request.scope).head)
    return Response(b"", status_code=307, headers={"Location": absolute_url(request, url)})
