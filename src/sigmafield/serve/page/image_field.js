// A field of an image: a file is uploaded when it is chosen, and the recipe names the upload.

import { ask, parsed } from "./api.js";
import { made } from "./dom.js";

export function imageField(name, schema, labelled) {
  let value;
  let uploading = Promise.resolve();
  const input = made("input", [], { type: "file", accept: "image/*" });
  const field = labelled(name, schema, input);
  const picture = made("img", [], { alt: `The chosen ${name}`, hidden: true, class: "chosen" });
  const state = made("span", [], { class: "hint", role: "status" });
  const remove = made("button", "Remove", { type: "button", hidden: true, "aria-label": `Remove the ${name}` });
  field.element.append(made("div", [picture, state, remove], { class: "row" }));
  const changed = () => field.element.dispatchEvent(new Event("change", { bubbles: true }));

  const show = (text, url) => {
    state.textContent = text;
    remove.hidden = value === undefined;
    if (picture.src.startsWith("blob:")) URL.revokeObjectURL(picture.src);
    picture.hidden = !url;
    if (url) picture.src = url;
    else picture.removeAttribute("src");
  };
  const set = (given) => {
    value = given ?? undefined;
    input.value = "";
    show(value === undefined ? "" : (value.startsWith("upload:") ? "an upload" : value));
  };
  // Uploads a file, or an image that another part of the page has
  const take = async (file) => {
    value = undefined;
    show("uploading …");
    field.fail();
    try {
      const sent = await ask("POST", "/v1/uploads", file, { type: file.type || "application/octet-stream" });
      const upload = parsed(await sent.text());
      value = upload.image;
      show(`${upload.width} × ${upload.height}`, URL.createObjectURL(file));
    } catch (error) {
      set();
      field.fail(error.message);
    }
    changed();
  };
  input.addEventListener("change", (event) => {
    event.stopPropagation();
    if (input.files[0]) uploading = take(input.files[0]);
  });
  remove.addEventListener("click", () => { set(); changed(); input.focus(); });
  return { ...field, get: () => value, set, take, ready: () => uploading };
}
