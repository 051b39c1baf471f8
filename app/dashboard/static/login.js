// Sends the token once; the answer sets a cookie that no script can read.
const form = document.getElementById("login");
const wrong = document.getElementById("wrong");

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = form.querySelector("button");
  button.disabled = true;
  wrong.textContent = "";
  try {
    const response = await fetch("/login", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ token: document.getElementById("token").value }),
    });
    if (response.ok) {
      location.reload();
      return;
    }
    const problem = await response.json().catch(() => ({}));
    wrong.textContent = problem.detail ?? `The daemon answered ${response.status}.`;
  } catch {
    wrong.textContent = "The daemon does not answer.";
  }
  button.disabled = false;
});
