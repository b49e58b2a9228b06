for (const button of document.querySelectorAll("button[data-copies]")) {
  const source = document.getElementById(button.dataset.copies);
  const done = button.parentElement.querySelector(".done");
  button.hidden = false;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(source.textContent);
      done.textContent = "Copied";
    } catch {
      // The browser keeps the clipboard to itself: select the text, so that a key copies it.
      getSelection().selectAllChildren(source);
      done.textContent = "Selected, copy it with Ctrl+C";
    }
    setTimeout(() => { done.textContent = ""; }, 4000);
  });
}
