// Browsers refuse to start a worker from a page opened from disk, and the search of these pages is
// one. There, this runs its script in a hidden frame instead, behind the same interface. The plugin
// `offline` would load such a script from the network; these pages ask for nothing there.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    #frame = document.createElement("iframe");
    #started;

    constructor(url) {
      super();
      this.#frame.hidden = true;
      document.body.append(this.#frame);
      const inside = this.#frame.contentWindow;
      inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      inside.importScripts = async (...urls) => {
        for (const each of urls) await this.#load(each);
      };
      this.#started = this.#load(url);
    }

    #load(url) {
      const inside = this.#frame.contentDocument;
      return new Promise((resolve, reject) => {
        const script = inside.createElement("script");
        script.src = new URL(url, document.baseURI).href;
        script.onload = resolve;
        script.onerror = reject;
        inside.head.append(script);
      });
    }

    async postMessage(data) {
      await this.#started;
      this.#frame.contentWindow.dispatchEvent(new MessageEvent("message", { data }));
    }

    terminate() {
      this.#frame.remove();
    }
  };
}
