"use strict";
// The pictures of the start page: the image that activates each of the first latents most.
(function () {
  const { pictures, images } = window.ATLAS.start;
  window.ATLAS.images = images;
  for (const place of document.querySelectorAll("[data-pictures]")) {
    const wanted = place.dataset.pictures, address = wanted.split("/").slice(-4).join("/");
    const { grid } = window.ATLAS.run.saes.find(one => one.address === address);
    for (const { image, heat, latent } of pictures[wanted] || []) {
      window.Viewer.add(place, { image, heat, grid, caption: "on the image that activates it most", latent: `${address}/${latent}` });
    }
  }
  document.body.dataset.ready = "#";
})();
