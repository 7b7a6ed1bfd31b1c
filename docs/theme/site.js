/* Adds a button to every piece of code that copies it. Without this script nothing is missing but the buttons. */

if (navigator.clipboard) {
  for (const code of document.querySelectorAll("main .highlight:not(.doc-signature, .language-text)")) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(code.querySelector("code").textContent);
      button.textContent = "Copied";
      setTimeout(() => (button.textContent = "Copy"), 2000);
    });
    code.append(button);
  }
}
